//! Keeps the certificate: every replica reads the Secret and shows what is in it; the one that holds the Lease takes the steps of
//! [`certificate`](super::certificate), and sees to it that the API server trusts it.
//!
//! Both objects are looked at every two seconds, each by its name, so that no list of Secrets and no watch has to be allowed. What somebody else
//! writes over is put right at the next look. The Secret itself is not made here: the right to make one is the right to make any.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Request;
use kube::Client;
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::certificate::{Kept, Step, plan, take};
use crate::kubernetes::{Backoff, ask};
use crate::telemetry::gates::Gates;
use crate::telemetry::metrics::Metrics;

/// How often both objects are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// The time of one question to the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// The gate of readiness.
pub const GATE: &str = "inject";

/// What keeps the certificate.
pub struct Keeper {
    /// The API server.
    pub client: Client,
    /// The name of the Secret and of the MutatingWebhookConfiguration.
    pub name: String,
    /// The names that the API server may look for.
    pub names: Vec<String>,
    /// Whether this replica holds the Lease.
    pub leading: watch::Receiver<bool>,
    /// What is shown.
    pub shown: watch::Sender<Option<Arc<CertifiedKey>>>,
    /// Readiness.
    pub gates: Arc<Gates>,
    /// Where the end of the certificate is noted.
    pub metrics: Arc<Metrics>,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the {0} {1} is not there; it comes with what installs the injector")]
    Missing(&'static str, String),
    #[error("the API server cannot be asked: {0}")]
    Api(#[from] kube::Error),
    #[error("the API server does not answer")]
    Silent,
    #[error("no certificate can be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl Keeper {
    /// Keeps it until nobody shows it.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut said = String::new();
        while !self.shown.is_closed() {
            let trouble = self.turn().await.err();
            let remark = trouble.as_ref().map(ToString::to_string).unwrap_or_default();
            if said != remark && !remark.is_empty() {
                tracing::warn!("{remark}");
            }
            let has_one = self.shown.borrow().is_some();
            match (has_one, remark.as_str()) {
                (true, remark) => self.gates.open_but(GATE, remark),
                (false, "") => self.gates.close(
                    GATE,
                    "the replica that holds the Lease has made no certificate yet",
                ),
                (false, remark) => self.gates.close(GATE, remark),
            }
            said = remark;
            match trouble {
                None => {
                    backoff.succeeded();
                    // At once when it becomes ours to do.
                    let _ = timeout(LOOK, self.leading.changed()).await;
                }
                Some(_) => tokio::time::sleep(backoff.failed(fastrand::f64())).await,
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Trouble> {
        let leads = *self.leading.borrow_and_update();
        let namespace = self.client.default_namespace();
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{}", self.name);
        let secret = self.read("Secret", &path).await?;
        let mut kept = Kept::of_secret(&secret);
        let now = SystemTime::now();
        if leads {
            let step = plan(kept.as_ref(), &self.names, now);
            if step != Step::Keep {
                kept = take(step, kept, &self.names, now)?;
                self.write(&path, secret, kept.as_ref()).await?;
                tracing::info!("the certificate of the injector: {step:?}");
            }
        }
        self.show(kept.as_ref(), now);
        match kept {
            Some(kept) if leads => self.have_trusted(&kept.bundle()).await,
            _ => Ok(()),
        }
    }

    /// Shows what is kept, if it differs from what is shown. What cannot be shown is for the holder of the Lease to replace.
    fn show(&self, kept: Option<&Kept>, now: SystemTime) {
        let certificate = kept.and_then(|kept| kept.shown(now).ok());
        let Some(certificate) = certificate else { return };
        self.metrics
            .injector_certificate(u64::try_from(certificate.not_after()).ok());
        self.shown.send_if_modified(|shown| {
            let is_new = shown
                .as_ref()
                .is_none_or(|shown| shown.cert != certificate.key().cert);
            if is_new {
                *shown = Some(Arc::clone(certificate.key()));
            }
            is_new
        });
    }

    /// Puts into the Secret what is kept now. If somebody else has changed it meanwhile, that fails, and all is looked at anew.
    async fn write(&self, path: &str, mut secret: Value, kept: Option<&Kept>) -> Result<(), Trouble> {
        let Some(kept) = kept else { return Ok(()) };
        secret["data"] = kept.data();
        self.request(ask("PUT", path, Some(&secret))?).await?;
        Ok(())
    }

    /// Has the API server trust this and nothing else for its question to us.
    async fn have_trusted(&self, bundle: &str) -> Result<(), Trouble> {
        const KIND: &str = "MutatingWebhookConfiguration";
        let path = format!(
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{}",
            self.name
        );
        let found = self.read(KIND, &path).await?;
        let operations = corrections(&found, bundle);
        if operations.is_empty() {
            return Ok(());
        }
        let request = Request::patch(&path)
            .header(http::header::CONTENT_TYPE, "application/json-patch+json")
            .body(Value::from(operations).to_string().into_bytes())
            .map_err(kube::Error::HttpError)?;
        self.request(request).await?;
        tracing::info!("the {KIND} {} trusts the certificate now", self.name);
        Ok(())
    }

    async fn read(&self, kind: &'static str, path: &str) -> Result<Value, Trouble> {
        match self.request(ask("GET", path, None)?).await {
            Err(Trouble::Api(kube::Error::Api(status))) if status.code == 404 => {
                Err(Trouble::Missing(kind, self.name.clone()))
            }
            other => other,
        }
    }

    async fn request(&self, request: Request<Vec<u8>>) -> Result<Value, Trouble> {
        match timeout(PATIENCE, self.client.request(request)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Trouble::Silent),
        }
    }
}

/// Operations that put the bundle where it is not (RFC 6902), for the version that was read; nothing if all is well.
fn corrections(configuration: &Value, bundle: &str) -> Vec<Value> {
    let webhooks = configuration["webhooks"].as_array().into_iter().flatten();
    let wrong = webhooks
        .enumerate()
        .filter(|(_, webhook)| webhook["clientConfig"]["caBundle"] != bundle)
        .map(|(at, _)| json!({"op": "add", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": bundle}));
    let mut operations: Vec<Value> = wrong.collect();
    if !operations.is_empty() {
        let version = &configuration["metadata"]["resourceVersion"];
        operations.insert(
            0,
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}),
        );
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_put_where_it_is_not() {
        let configuration = |bundles: &[Option<&str>]| {
            let webhooks: Vec<Value> = bundles
                .iter()
                .map(|bundle| match bundle {
                    Some(bundle) => json!({"name": "a", "clientConfig": {"caBundle": bundle}}),
                    None => json!({"name": "a", "clientConfig": {}}),
                })
                .collect();
            json!({"metadata": {"resourceVersion": "7"}, "webhooks": webhooks})
        };
        let add = |at: usize| json!({"op": "add", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": "B"});
        let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"});
        for (bundles, expected) in [
            (&[][..], vec![]),
            (&[Some("B")], vec![]),
            (&[Some("other")], vec![test.clone(), add(0)]),
            (&[None], vec![test.clone(), add(0)]),
            (&[Some("B"), None], vec![test.clone(), add(1)]),
        ] {
            assert_eq!(corrections(&configuration(bundles), "B"), expected, "{bundles:?}");
        }
        assert_eq!(corrections(&json!({}), "B"), Vec::<Value>::new());
    }
}
