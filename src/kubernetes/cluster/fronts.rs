//! Writes the Services in front of Gateways, and their EndpointSlices.
//!
//! The owner of the index keeps the names of those to look at, each once; here one after the other is read, compared and applied
//! if it differs, as statuses are: eight at once, and at most two hundred in a second.
//!
//! Services are written by the replica that holds the lease alone, because their target ports are given out there. Slices are
//! another matter: they say which pods of ours are alive, and the holder may be the one that just died. It has 15 s before another
//! takes its place, in which every Gateway would lead to a dead pod. So each replica compares, and writes what the holder has left as it is
//! for two seconds. What it writes follows from what there is, so it makes no difference who does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::backoff::Backoff;
use super::hub::Told;
use super::lease::ask;
use super::requests;
use crate::kubernetes::front::{GatewayServices, mirror, objects};
use crate::kubernetes::index::FrontWork;
use crate::kubernetes::objects::{Id, Key, Kind, SERVICE_LABEL};

/// The least time from one Service to the next.
const INTERVAL: Duration = Duration::from_millis(5);

/// Services that are written at once.
const MAX_AT_ONCE: usize = 8;

/// How long another than the holder leaves slices as they are.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the writing of one Service and its slices may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Who owns the fields that are applied.
const MANAGER: &str = "tidegate";

/// Our own slices, as they were when they had changed so often.
type Own = (u64, Arc<Vec<Value>>);

/// Why a Service was not written.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The API server would not.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// It did not answer.
    #[error("the API server does not answer")]
    Late,
}

/// When a Service that is not as it should be is looked at again, and the pauses until then.
#[derive(Debug, Default)]
struct Later {
    due: Option<Instant>,
    is_whole: bool,
    backoff: Backoff,
}

/// Writes until nobody owns the index. `wake` is notified when there is something to ask for.
pub async fn write(
    client: Client,
    services: GatewayServices,
    hub: mpsc::Sender<Told>,
    mut leading: watch::Receiver<bool>,
    wake: Arc<Notify>,
) {
    let mut led = false;
    let mut own: Option<Own> = None;
    // Those that are being written, and whether and how they are to be looked at again after that.
    let mut busy: BTreeMap<Id, Option<bool>> = BTreeMap::new();
    // As many as there are Services that are not well.
    let mut later: BTreeMap<Id, Later> = BTreeMap::new();
    let mut writing: JoinSet<(FrontWork, Result<bool, Trouble>)> = JoinSet::new();
    loop {
        while let Some(done) = match writing.len() {
            MAX_AT_ONCE.. => writing.join_next().await,
            _ => writing.try_join_next(),
        } {
            let Ok((work, result)) = done else {
                busy.clear(); // nobody knows whose it was
                continue;
            };
            if let Some(Some(is_whole)) = busy.remove(&work.service) {
                let again = Told::FrontAgain(work.service.clone(), is_whole);
                if hub.send(again).await.is_err() {
                    return;
                }
            }
            settle(work, result, &mut later);
        }
        let leads = *leading.borrow_and_update();
        if leads != led {
            led = leads;
            if leads && hub.send(Told::Fronts).await.is_err() {
                return;
            }
        }
        let now = Instant::now();
        for (service, later) in &mut later {
            if later.due.take_if(|due| *due <= now).is_some() {
                let again = Told::FrontAgain(service.clone(), later.is_whole);
                if hub.send(again).await.is_err() {
                    return;
                }
            }
        }
        let (reply, next) = oneshot::channel();
        if hub.send(Told::NextFront(reply)).await.is_err() {
            return;
        }
        let Some(work) = next.await.ok().flatten() else {
            let due = later.values().filter_map(|later| later.due).min();
            tokio::select! {
                () = wake.notified() => {}
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
                // What is under way may have to be looked at again.
                () = tokio::time::sleep(INTERVAL), if !writing.is_empty() => {}
                changed = leading.changed() => if changed.is_err() { return },
            }
            continue;
        };
        if let Some(again) = busy.get_mut(&work.service) {
            *again = Some(work.is_whole || again.unwrap_or_default());
            continue;
        }
        if !leads && is_left(&work, &mut later, now) {
            continue;
        }
        if own.as_ref().is_none_or(|(as_of, _)| *as_of != work.own_slices) {
            match in_time(own_slices(&client, &services.own)).await {
                Ok(slices) => own = Some((work.own_slices, Arc::new(slices))),
                Err(error) => {
                    settle(work, Err(error), &mut later);
                    tokio::time::sleep(INTERVAL).await;
                    continue;
                }
            }
        }
        let slices = own
            .as_ref()
            .map(|(_, slices)| Arc::clone(slices))
            .unwrap_or_default();
        let (client, services) = (client.clone(), services.clone());
        busy.insert(work.service.clone(), None);
        writing.spawn(async move {
            let result = in_time(put(&client, &services, &work, &slices, leads)).await;
            (work, result)
        });
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What comes of questions, if it comes in time.
async fn in_time<T>(questions: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Trouble> {
    match timeout(DEADLINE, questions).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Trouble::Late),
    }
}

/// Whether a Service is left to the holder of the lease: it is as it should be, or has not been otherwise for long.
fn is_left(work: &FrontWork, later: &mut BTreeMap<Id, Later>, now: Instant) -> bool {
    if work.agrees || !work.is_said || work.front.is_none() {
        later.remove(&work.service);
        return true;
    }
    match later.get(&work.service) {
        Some(Later { due: None, .. }) => false,
        Some(_) => true,
        None => {
            let waits = Later {
                due: Some(now + PATIENCE),
                ..Later::default()
            };
            later.insert(work.service.clone(), waits);
            true
        }
    }
}

/// Notes what came of a Service: one that could not be written is looked at again after a pause, of its own.
fn settle(work: FrontWork, result: Result<bool, Trouble>, later: &mut BTreeMap<Id, Later>) {
    match result {
        Ok(is_new) => {
            later.remove(&work.service);
            if is_new {
                tracing::debug!("Service {} is written", work.service);
            }
        }
        Err(error) => {
            let is_conflict = matches!(&error, Trouble::Api(kube::Error::Api(status)) if status.code == 409);
            if !is_conflict {
                tracing::warn!("Service {} of a Gateway cannot be written: {error}", work.service);
            }
            let again = later.entry(work.service).or_default();
            again.due = Some(Instant::now() + again.backoff.failed(fastrand::f64()));
            again.is_whole |= work.is_whole;
        }
    }
}

/// The slices of our own Service, as the API server has them.
async fn own_slices(client: &Client, own: &Id) -> Result<Vec<Value>, kube::Error> {
    let mut path = collection(Kind::EndpointSlice, &own.namespace);
    path.push_str(&format!(
        "?labelSelector={}%3D{}",
        SERVICE_LABEL.replace('/', "%2F"),
        own.name
    ));
    let mut list: Value = client.request(ask("GET", &path, None)?).await?;
    match list["items"].take() {
        Value::Array(slices) => Ok(slices),
        _ => Ok(Vec::new()),
    }
}

/// Makes the Service and its slices what they are to be; whether anything was written.
async fn put(
    client: &Client,
    services: &GatewayServices,
    work: &FrontWork,
    own: &[Value],
    leads: bool,
) -> Result<bool, kube::Error> {
    let mut is_new = false;
    let path = path(Kind::Service, &work.service.namespace, &work.service.name);
    let mut wanted = Vec::new();
    match &work.front {
        None if leads => is_new |= take_away(client, &path).await?,
        None => return Ok(false),
        Some(front) => {
            if leads && work.is_whole {
                let there = get(client, &path).await?;
                let like = requests::object(&Key {
                    kind: Kind::Service,
                    id: services.own.clone(),
                });
                let like = get(client, &like).await?;
                let service = objects::service(&work.service, front, services.kind, &like, &there);
                is_new |= apply(client, &path, &service, &there, &[]).await?;
            }
            wanted.extend(
                own.iter()
                    .filter_map(|own| mirror::slice(&work.service, front, own)),
            );
        }
    }
    let mut known = work.slices.clone();
    for slice in &wanted {
        let name = slice["metadata"]["name"].as_str().unwrap_or_default();
        known.retain(|known| **known != *name);
        let path = self::path(Kind::EndpointSlice, &work.service.namespace, name);
        let there = get(client, &path).await?;
        is_new |= apply(client, &path, slice, &there, mirror::EXACT).await?;
    }
    for gone in known {
        let path = self::path(Kind::EndpointSlice, &work.service.namespace, &gone);
        is_new |= take_away(client, &path).await?;
    }
    Ok(is_new)
}

/// Applies an object where what is there is another; whether it was. One that others made is left alone.
async fn apply(
    client: &Client,
    path: &str,
    wanted: &Value,
    there: &Value,
    exact: &[&str],
) -> Result<bool, kube::Error> {
    if !there.is_null() && !objects::is_ours(there) {
        let status = kube::core::Status::failure("it is there, and others have made it", "AlreadyExists");
        return Err(kube::Error::Api(status.with_code(412).boxed()));
    }
    if objects::is_applied(wanted, there, exact) {
        return Ok(false);
    }
    let request = Request::builder()
        .method("PATCH")
        .uri(format!("{path}?fieldManager={MANAGER}&force=true"))
        .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
        .body(wanted.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    let _: Value = client.request(request).await?;
    Ok(true)
}

/// Deletes an object, if it is one that we made; whether it was there.
async fn take_away(client: &Client, path: &str) -> Result<bool, kube::Error> {
    let there = get(client, path).await?;
    if !objects::is_ours(&there) {
        return Ok(false);
    }
    let which = json!({"preconditions": {"uid": there["metadata"]["uid"]}});
    match client.request::<Value>(ask("DELETE", path, Some(&which))?).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// An object as the API server has it; null if it has not.
async fn get(client: &Client, path: &str) -> Result<Value, kube::Error> {
    match client.request(ask("GET", path, None)?).await {
        Ok(object) => Ok(object),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Value::Null),
        Err(error) => Err(error),
    }
}

fn path(kind: Kind, namespace: &str, name: &str) -> String {
    requests::object(&Key {
        kind,
        id: Id::new(namespace, name),
    })
}

fn collection(kind: Kind, namespace: &str) -> String {
    let one = path(kind, namespace, "");
    one.trim_end_matches('/').to_owned()
}
