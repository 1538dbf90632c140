//! Writes status to the API server, while the lease is ours.
//!
//! The owner of the index keeps the names of the objects that may fare differently, each once; here one after the other is asked
//! for, read, compared and written if it differs, at most fifty in a second. What was changed by somebody else in between is
//! asked for again.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::backoff::Backoff;
use super::hub::Told;
use super::lease::{ask, unix_now};
use super::requests;
use crate::kubernetes::objects::{Key, format_time};
use crate::kubernetes::status::{Status, merge};

/// The least time from one object to the next.
const INTERVAL: Duration = Duration::from_millis(20);

/// Writes until nobody owns the index. `wake` is notified when there is something to ask for.
pub async fn write(
    client: Client,
    hub: mpsc::Sender<Told>,
    mut leading: watch::Receiver<bool>,
    wake: Arc<Notify>,
) {
    let mut backoff = Backoff::default();
    let mut led = false;
    loop {
        let leads = *leading.borrow_and_update();
        if leads != led {
            led = leads;
            if hub.send(Told::Leading(leads)).await.is_err() {
                return;
            }
        }
        let next = match leads {
            true => {
                let (reply, next) = oneshot::channel();
                if hub.send(Told::Next(reply)).await.is_err() {
                    return;
                }
                next.await.ok().flatten()
            }
            false => None,
        };
        let Some((key, status)) = next else {
            tokio::select! {
                () = wake.notified() => {}
                changed = leading.changed() => if changed.is_err() { return },
            }
            continue;
        };
        match put(&client, &key, &status).await {
            Ok(is_new) => {
                backoff.succeeded();
                if is_new {
                    tracing::debug!("status of {key} written");
                    tokio::time::sleep(INTERVAL).await;
                }
            }
            Err(error) => {
                let is_conflict = matches!(&error, kube::Error::Api(status) if status.code == 409);
                if !is_conflict {
                    tracing::warn!("the status of {key} cannot be written: {error}");
                    tokio::time::sleep(backoff.failed(fastrand::f64())).await;
                }
                if hub.send(Told::Again(key)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads an object, and writes its status if it differs; whether it did.
async fn put(client: &Client, key: &Key, status: &Status) -> Result<bool, kube::Error> {
    let path = requests::object(key);
    let object: Value = match client.request(ask("GET", &path, None)?).await {
        Ok(object) => object,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(false),
        Err(error) => return Err(error),
    };
    let now = format_time(unix_now());
    let none = json!({});
    let Some(next) = merge(status, object.get("status").unwrap_or(&none), &now) else {
        return Ok(false);
    };
    let patch = json!({
        "metadata": {"resourceVersion": object["metadata"]["resourceVersion"]},
        "status": next,
    });
    let _: Value = client
        .request(ask("PATCH", &format!("{path}/status"), Some(&patch))?)
        .await?;
    Ok(true)
}
