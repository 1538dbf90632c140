//! mTLS between sidecars, compiled: what the library needs for a handshake on either side, made of who we are.
//!
//! Sources say which listeners ask for it and which backends are reached by it, another one who we are. A new identity makes
//! both anew: handshakes under way end with what they began with, and connections that are there live on. Towards
//! endpoints new requests take connections of the new identity, and those of the old one fall idle (`upstream/pool.rs`).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;

use super::union::SourceIndex;
use crate::model::tls::{PeerVerifier, TlsVersion, TlsVersions, provider};
use crate::model::{self, Identity, InboundMtls, Inner, MtlsMode, Peers, UpstreamTls};

/// What is asked of those who connect to an address.
pub struct MtlsService {
    /// As the user wrote it.
    pub asked: InboundMtls,
    /// What the library needs; none while it is not known who we are.
    pub config: Option<Arc<ServerConfig>>,
    identity: Option<Arc<Identity>>,
}

impl MtlsService {
    /// With who we are. `before`: the one whose place it takes, which it is again if nothing has changed.
    pub(super) fn of(
        asked: &InboundMtls,
        identity: Option<&Arc<Identity>>,
        before: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        if let Some(before) = before
            && before.asked == *asked
            && before.identity.as_ref() == identity
        {
            return Arc::clone(before);
        }
        let config = identity.and_then(|identity| {
            config(asked, identity)
                .map_err(|error| tracing::error!(%error, "mTLS cannot be served"))
                .ok()
        });
        Arc::new(Self {
            asked: asked.clone(),
            config: config.map(Arc::new),
            identity: identity.cloned(),
        })
    }

    /// Whether clear text is refused.
    pub fn is_strict(&self) -> bool {
        self.asked.mode == MtlsMode::Strict
    }

    /// Whether those who want this port are asked at all.
    pub fn asks_at(&self, port: u16) -> bool {
        !self.asked.plain_ports.contains(&port)
    }
}

impl fmt::Debug for MtlsService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("MtlsService");
        debug
            .field("asked", &self.asked)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

fn config(asked: &InboundMtls, identity: &Identity) -> Result<ServerConfig, String> {
    let verifier = PeerVerifier::new(identity, asked.peers.clone()).map_err(|error| error.to_string())?;
    let versions = TlsVersions::between(TlsVersion::V1_3, TlsVersion::V1_3).unwrap_or_default();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions.supported())
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
            identity.certificate.key(),
        ))));
    config.alpn_protocols = Inner::ALL.map(|inner| inner.alpn().to_vec()).to_vec();
    // A session that is taken up again shows no certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The control plane's side: who we are, and the TLS of backends that are reached by mTLS.
#[derive(Default)]
pub(super) struct Mtls {
    /// By source; the first that says it is believed.
    identities: Vec<(SourceIndex, Arc<Identity>)>,
    /// By who has to be there. What no backend uses any more goes when there is too much of it.
    upstream: HashMap<Peers, Arc<UpstreamTls>>,
}

/// TLS that is kept although perhaps no backend uses it.
const MAX_UNUSED: usize = 64;

impl Mtls {
    /// Who we are.
    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        self.identities.first().map(|(_, identity)| identity)
    }

    /// A source says who we are; tells whether that is another than before.
    pub(super) fn follow(&mut self, source: SourceIndex, identity: Option<Arc<Identity>>) -> bool {
        let before = self.identity().cloned();
        let place = self.identities.iter().position(|(known, _)| *known == source);
        match (place, identity) {
            (Some(at), Some(identity)) => self.identities[at].1 = identity,
            (None, Some(identity)) => self.identities.push((source, identity)),
            (Some(at), None) => {
                self.identities.remove(at);
            }
            (None, None) => {}
        }
        let changed = before.as_ref() != self.identity();
        if changed {
            self.upstream.clear();
        }
        changed
    }

    /// A backend's policy, with the TLS that its connections use.
    pub(super) fn complete(&mut self, policy: &Arc<model::Backend>) -> Arc<model::Backend> {
        let Some(peers) = &policy.mtls else {
            return Arc::clone(policy);
        };
        Arc::new(model::Backend {
            // What other TLS there may be is not used: nothing goes out that the other sidecar could not read.
            tls: self.tls(peers),
            ..(**policy).clone()
        })
    }

    fn tls(&mut self, peers: &Peers) -> Option<Arc<UpstreamTls>> {
        if let Some(known) = self.upstream.get(peers) {
            return Some(Arc::clone(known));
        }
        let made = UpstreamTls::between_sidecars(self.identity()?, peers)
            .map_err(|error| tracing::error!(%error, "mTLS cannot be spoken"));
        let made = Arc::new(made.ok()?);
        if self.upstream.len() >= MAX_UNUSED {
            self.upstream.retain(|_, tls| Arc::strong_count(tls) > 1);
        }
        self.upstream.insert(peers.clone(), Arc::clone(&made));
        Some(made)
    }
}
