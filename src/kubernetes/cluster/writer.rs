//! Writes status to the API server, while the lease is ours.
//!
//! The owner of the index keeps the names of the objects that may fare differently, each once; here one after the other is asked
//! for, read, compared and written if it differs: eight at once, and at most two hundred in a second. What was changed by somebody
//! else in between is asked for again.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::backoff::Backoff;
use super::hub::Told;
use super::lease::{ask, unix_now};
use super::requests;
use crate::kubernetes::objects::{Key, format_time};
use crate::kubernetes::status::{Status, merge};

/// The least time from one object to the next.
const INTERVAL: Duration = Duration::from_millis(5);

/// Objects that are written at once.
const MAX_AT_ONCE: usize = 8;

/// Writes until nobody owns the index. `wake` is notified when there is something to ask for.
pub async fn write(
    client: Client,
    hub: mpsc::Sender<Told>,
    mut leading: watch::Receiver<bool>,
    wake: Arc<Notify>,
) {
    let mut backoff = Backoff::default();
    let mut led = false;
    let mut writing: JoinSet<(Key, Result<bool, kube::Error>)> = JoinSet::new();
    loop {
        // First what is done, so that what failed is asked for again and the pause is kept.
        while let Some(done) = match writing.len() {
            MAX_AT_ONCE.. => writing.join_next().await,
            _ => writing.try_join_next(),
        } {
            let Ok((key, result)) = done else { continue };
            match result {
                Ok(is_new) => {
                    backoff.succeeded();
                    if is_new {
                        tracing::debug!("status of {key} written");
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
            if !writing.is_empty() {
                // What is under way may have to be asked for again.
                tokio::select! {
                    () = wake.notified() => {}
                    () = tokio::time::sleep(INTERVAL) => {}
                }
                continue;
            }
            tokio::select! {
                () = wake.notified() => {}
                changed = leading.changed() => if changed.is_err() { return },
            }
            continue;
        };
        let client = client.clone();
        writing.spawn(async move {
            let result = put(&client, &key, &status).await;
            (key, result)
        });
        tokio::time::sleep(INTERVAL).await;
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
