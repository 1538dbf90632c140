//! Writes Events (`events.k8s.io/v1`) about objects that are not well, while the lease is ours.
//!
//! What is said and when is decided in [`reports`](super::reports); here an object is read for its uid, without which `kubectl describe`
//! does not find its Events, and the Event is made, five a second at most. Its name comes from the object and the complaint: where it is there
//! already, from before a restart or by another replica, it is counted on.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::hub::Told;
use super::lease::{ask, unix_now};
use super::reports::{Report, Reports};
use super::requests;
use crate::kubernetes::objects::format_time;

/// The least time from one Event to the next.
const INTERVAL: Duration = Duration::from_millis(200);

/// The longest note that the API takes, in bytes.
const MAX_NOTE: usize = 1024;

/// The longest name of an object in an Event's name, which has a hash behind it.
const MAX_NAME: usize = 200;

/// Says who reports.
const CONTROLLER: &str = "tidegate.dev/controller";

/// Reports until nobody owns the index. `wake` is notified when there is something to ask for.
pub async fn report(
    client: Client,
    me: String,
    hub: mpsc::Sender<Told>,
    mut leading: watch::Receiver<bool>,
    wake: Arc<Notify>,
) {
    let mut reports = Reports::default();
    let mut backoff = Backoff::default();
    loop {
        if !*leading.borrow_and_update() {
            reports = Reports::default();
            if leading.changed().await.is_err() {
                return;
            }
            continue;
        }
        loop {
            let (reply, next) = oneshot::channel();
            if hub.send(Told::NextFinding(reply)).await.is_err() {
                return;
            }
            let Some((key, complaints)) = next.await.ok().flatten() else {
                break;
            };
            reports.found(key, &complaints, Instant::now());
        }
        let Some(report) = reports.next(Instant::now()) else {
            let later = reports.wait();
            tokio::select! {
                () = wake.notified() => {}
                () = sleep_until(later.unwrap_or_else(Instant::now)), if later.is_some() => {}
                changed = leading.changed() => if changed.is_err() { return },
            }
            continue;
        };
        match write(&client, &me, &report).await {
            Ok(()) => {
                backoff.succeeded();
                reports.said(&report, Instant::now());
                tokio::time::sleep(INTERVAL).await;
            }
            Err(error) => {
                tracing::debug!("an Event about {} cannot be written: {error}", report.key);
                tokio::time::sleep(backoff.failed(fastrand::f64())).await;
            }
        }
    }
}

/// Makes an Event, or counts on. An object that is gone needs none; one that may not be read alone (the role has no `get` for
/// Secrets, say) is named without its uid.
async fn write(client: &Client, me: &str, report: &Report) -> Result<(), kube::Error> {
    let object: Value = match client
        .request(ask("GET", &requests::object(&report.key), None)?)
        .await
    {
        Ok(object) => object,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(kube::Error::Api(status)) if status.code == 403 => Value::Null,
        Err(error) => return Err(error),
    };
    let event = event(report, &object["metadata"], me, unix_now());
    let namespace = event["metadata"]["namespace"].as_str().unwrap_or_default();
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let made: Result<Value, kube::Error> = client.request(ask("POST", &path, Some(&event))?).await;
    match made {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let name = event["metadata"]["name"].as_str().unwrap_or_default();
            let series = json!({"count": report.count.max(2), "lastObservedTime": event["eventTime"]});
            let patch = json!({"series": series});
            let _: Value = client
                .request(ask("PATCH", &format!("{path}/{name}"), Some(&patch))?)
                .await?;
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The Event, as of seconds since 1970. `metadata` is the object's.
fn event(report: &Report, metadata: &Value, me: &str, now: u64) -> Value {
    let (key, complaint) = (&report.key, &report.complaint);
    let (reason, message) = complaint.condition().unwrap_or(("NotValid", &complaint.reason));
    let note = match complaint.field.as_str() {
        "" => message.to_owned(),
        field => format!("{field}: {message}"),
    };
    let namespace = match &*key.id.namespace {
        "" => "default",
        namespace => namespace,
    };
    let group = key.kind.group();
    let version = key.kind.versions()[0];
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name(report), "namespace": namespace},
        "eventTime": format_time(now).replace('Z', ".000000Z"),
        "reportingController": CONTROLLER,
        "reportingInstance": cut(me, 128),
        "action": "Translate",
        "reason": cut(reason, 128),
        "type": "Warning",
        "note": cut(&note, MAX_NOTE),
        "regarding": {
            "apiVersion": api_version,
            "kind": key.kind.name(),
            "namespace": &*key.id.namespace,
            "name": &*key.id.name,
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
    })
}

/// The same for the same complaint about the same object, whoever says it (FNV-1a).
fn name(report: &Report) -> String {
    let parts = [
        report.key.kind.name(),
        &report.complaint.field,
        &report.complaint.reason,
    ];
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.into_iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let object = cut(&report.key.id.name, MAX_NAME).trim_end_matches(['-', '.']);
    format!("{object}.{hash:016x}")
}

/// A text of at most so many bytes.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::Kind;
    use crate::kubernetes::index::Complaint;
    use crate::kubernetes::testing::key;

    fn report_of(kind: Kind, name: &str, reason: &str) -> Report {
        let namespace = if kind.is_namespaced() { "n" } else { "" };
        Report {
            key: key(kind, namespace, name),
            complaint: Complaint::new("spec.rules[0]", reason),
            count: 1,
        }
    }

    #[test]
    fn an_event_names_object_field_and_reason() {
        let report = report_of(
            Kind::HttpRoute,
            "web",
            "BackendNotFound: there is no Service n/api",
        );
        let event = event(&report, &json!({"uid": "u", "resourceVersion": "7"}), "pod-1", 0);
        assert_eq!(event["reason"], "BackendNotFound");
        assert_eq!(event["note"], "spec.rules[0]: there is no Service n/api");
        assert_eq!(event["eventTime"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(
            event["regarding"],
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "namespace": "n", "name": "web",
                "uid": "u", "resourceVersion": "7"})
        );
        assert_eq!(event["metadata"]["namespace"], "n");
        assert_eq!(name(&report), name(&report.clone()));
        assert_ne!(name(&report), name(&report_of(Kind::HttpRoute, "web", "other")));
    }

    #[test]
    fn texts_have_the_lengths_that_the_api_takes() {
        let long = "ä".repeat(2000);
        let name_of_most = "a".repeat(252) + "b";
        let event = event(
            &report_of(Kind::GatewayClass, &name_of_most, &long),
            &json!({}),
            &long,
            0,
        );
        assert!(event["note"].as_str().unwrap().len() <= MAX_NOTE);
        assert!(event["reportingInstance"].as_str().unwrap().len() <= 128);
        assert!(event["metadata"]["name"].as_str().unwrap().len() <= 253);
        assert_eq!(
            (&event["reason"], &event["metadata"]["namespace"]),
            (&json!("NotValid"), &json!("default"))
        );
    }
}
