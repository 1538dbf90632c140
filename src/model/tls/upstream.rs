//! TLS towards endpoints: whom a backend's connections trust, and as whom they come.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::mtls::{Identity, Inner, PeerVerifier, Peers};
use super::trust::verify_chain;
use super::{Certificate, Subject, SubjectName, TlsVersion, TlsVersions, TrustBundle, provider};
use crate::model::{BackendProtocol, HostPattern};

/// How a backend's connections use TLS. The words are those of the Gateway API's BackendTLSPolicy.
#[derive(Clone)]
pub struct UpstreamTls {
    /// The name that is asked for (SNI), and that the endpoint's certificate must have unless `names` says otherwise.
    pub hostname: ServerName<'static>,
    /// Who may have signed the endpoint's certificate.
    pub roots: Roots,
    /// One of these must be among the names of the endpoint's certificate, instead of `hostname`.
    pub names: Vec<SubjectName>,
    /// What is shown to an endpoint that asks who we are.
    pub certificate: Option<Arc<Certificate>>,
    /// The versions offered.
    pub versions: TlsVersions,
    /// Who has to be there, if it is the TLS between sidecars: then none of the names above is asked for.
    pub peers: Option<Peers>,
    id: u64,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    any: Arc<ClientConfig>,
    opaque: Arc<ClientConfig>,
}

/// Who is trusted.
#[derive(Clone, Debug, PartialEq)]
pub enum Roots {
    /// The system's roots (`wellKnownCACertificates: System`).
    System,
    /// Those of a bundle (`caCertificateRefs`).
    Bundle(TrustBundle),
}

/// Why TLS cannot be used as written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamTlsError {
    /// The hostname is none.
    #[error("{0:?} is neither a hostname nor an address")]
    Hostname(String),
    /// The roots cannot be used.
    #[error("{0}")]
    Trust(#[from] super::TrustError),
    /// The library refuses it.
    #[error("{0}")]
    Unusable(String),
}

impl UpstreamTls {
    /// Reads the roots and makes what a connection needs.
    ///
    /// # Errors
    /// A hostname that is none, a system without roots.
    pub fn new(
        hostname: &str,
        roots: Roots,
        names: Vec<SubjectName>,
        certificate: Option<Arc<Certificate>>,
        versions: TlsVersions,
    ) -> Result<Self, UpstreamTlsError> {
        let name = ServerName::try_from(hostname.to_owned())
            .map_err(|_| UpstreamTlsError::Hostname(hostname.to_owned()))?;
        let store = match &roots {
            Roots::System => Arc::clone(TrustBundle::of_system()?.roots()),
            Roots::Bundle(bundle) => Arc::clone(bundle.roots()),
        };
        let unusable = UpstreamTlsError::Unusable;
        let verifier: Arc<dyn ServerCertVerifier> = match names.is_empty() {
            true => WebPkiServerVerifier::builder_with_provider(store, Arc::clone(provider()))
                .build()
                .map_err(|error| unusable(error.to_string()))?,
            false => Arc::new(OneOf {
                roots: store,
                names: names.clone(),
            }),
        };
        let base = base(verifier, certificate.as_ref(), versions)?;
        Ok(Self {
            hostname: name,
            roots,
            names,
            certificate,
            versions,
            peers: None,
            id: next_id(),
            http1: speaking(&base, &[b"http/1.1"]),
            http2: speaking(&base, &[b"h2"]),
            any: speaking(&base, &[b"h2", b"http/1.1"]),
            opaque: speaking(&base, &[]),
        })
    }

    /// The TLS between sidecars, as who we are, to those that are meant.
    ///
    /// # Errors
    /// A trust that cannot be used.
    pub fn between_sidecars(identity: &Identity, peers: &Peers) -> Result<Self, UpstreamTlsError> {
        let verifier = Arc::new(PeerVerifier::new(identity, peers.clone())?);
        let versions = TlsVersions::between(TlsVersion::V1_3, TlsVersion::V1_3).unwrap_or_default();
        let mut base = base(verifier, Some(&identity.certificate), versions)?;
        // Peers are told apart by their ids; a name would only be seen on the way. Sessions are not taken up again: that
        // would show no certificate.
        base.enable_sni = false;
        base.resumption = Resumption::disabled();
        let hostname = ServerName::try_from("peer.invalid")
            .map_err(|error| UpstreamTlsError::Unusable(error.to_string()))?;
        let inside = |inner: Inner| speaking(&base, &[inner.alpn()]);
        Ok(Self {
            hostname,
            roots: Roots::Bundle(identity.trust.clone()),
            names: Vec::new(),
            certificate: Some(Arc::clone(&identity.certificate)),
            versions,
            peers: Some(peers.clone()),
            id: next_id(),
            http1: inside(Inner::of(BackendProtocol::Http1)),
            http2: inside(Inner::of(BackendProtocol::H2c)),
            any: inside(Inner::of(BackendProtocol::Auto)),
            opaque: inside(Inner::Opaque),
        })
    }

    /// The same, with a certificate that is shown to endpoints that ask.
    ///
    /// # Errors
    /// The library refuses it.
    pub fn showing(&self, certificate: &Arc<Certificate>) -> Result<Self, UpstreamTlsError> {
        Self::new(
            &self.hostname.to_str(),
            self.roots.clone(),
            self.names.clone(),
            Some(Arc::clone(certificate)),
            self.versions,
        )
    }

    /// Its number in this process; another one for each that was made.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What a connection needs on which bytes are relayed: no application protocol is asked for.
    pub fn opaque(&self) -> &Arc<ClientConfig> {
        &self.opaque
    }

    /// What a connection of this protocol needs, as the library wants it.
    pub fn config(&self, protocol: BackendProtocol) -> &Arc<ClientConfig> {
        match protocol {
            BackendProtocol::Http1 => &self.http1,
            BackendProtocol::H2c => &self.http2,
            BackendProtocol::Auto => &self.any,
        }
    }
}

/// Tells apart what was made at different times, so that a connection is not used under another's rules.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn base(
    verifier: Arc<dyn ServerCertVerifier>,
    certificate: Option<&Arc<Certificate>>,
    versions: TlsVersions,
) -> Result<ClientConfig, UpstreamTlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions.supported())
        .map_err(|error| UpstreamTlsError::Unusable(error.to_string()))?
        .dangerous() // nothing is left out: it verifies the chain, and the names that are wanted
        .with_custom_certificate_verifier(verifier);
    Ok(match certificate {
        Some(certificate) => builder.with_client_cert_resolver(Arc::new(
            rustls::sign::SingleCertAndKey::from(Arc::clone(certificate.key())),
        )),
        None => builder.with_no_client_auth(),
    })
}

/// The same with these application protocols.
fn speaking(base: &ClientConfig, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = base.clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        // The rest follows from these.
        self.hostname == other.hostname
            && self.roots == other.roots
            && self.names == other.names
            && self.certificate == other.certificate
            && self.versions == other.versions
            && self.peers == other.peers
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("UpstreamTls")
            .field("hostname", &self.hostname)
            .field("roots", &self.roots)
            .field("names", &self.names)
            .field("certificate", &self.certificate)
            .field("versions", &self.versions)
            .finish_non_exhaustive()
    }
}

/// The chain by the roots, and one of several names instead of the one asked for.
#[derive(Debug)]
struct OneOf {
    roots: Arc<RootCertStore>,
    names: Vec<SubjectName>,
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _asked_for: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = verify_chain(&self.roots, own, others, now)?;
        let subject = Subject::of(own).ok_or(CertificateError::BadEncoding)?;
        let has = |name: &SubjectName| match name {
            // A certificate for a wildcard is for the name too.
            SubjectName::Dns(HostPattern::Exact(host)) => ServerName::try_from(&**host)
                .is_ok_and(|host| rustls::client::verify_server_name(&parsed, &host).is_ok()),
            name => name.is_among(&subject),
        };
        if self.names.iter().any(has) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
