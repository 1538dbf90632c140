//! mTLS between sidecars: who we are, whom we believe, and with whom we speak.
//!
//! Both sides show a certificate with a SPIFFE id, signed by whom the trust bundle names; each asks who the other is, and
//! whether it is one of those that are meant. The TLS is Tidegate's own, below what the app speaks: it is told from the app's
//! by its application protocol (ALPN), which also says what is spoken inside. So nobody has to guess, and a server that
//! speaks first is not waited for.
//!
//! A bundle is that of our own trust domain: an id of another one is refused even where the bundle's keys have signed it,
//! because a key vouches for one trust domain alone (SPIFFE Trust Domain and Bundle §4).

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::spiffe::{PeerName, SpiffeError, SpiffeId};
use super::trust::verify_chain;
use super::{Certificate, TrustBundle, TrustError, provider};
use crate::model::BackendProtocol;

/// Who we are, and whom we believe.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Our name.
    pub id: SpiffeId,
    /// The certificate that says so.
    pub certificate: Arc<Certificate>,
    /// Who may have signed the certificates of others.
    pub trust: TrustBundle,
}

impl Identity {
    /// The identity that a certificate gives.
    ///
    /// # Errors
    /// The certificate is no workload's.
    pub fn new(certificate: Arc<Certificate>, trust: TrustBundle) -> Result<Self, SpiffeError> {
        let leaf = certificate.key().cert.first();
        let id = SpiffeId::of_certificate(leaf.map_or(&[][..], |leaf| leaf))?;
        Ok(Self {
            id,
            certificate,
            trust,
        })
    }
}

/// What is asked of those who connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundMtls {
    /// Whether clear text is taken too.
    pub mode: MtlsMode,
    /// Who may connect by mTLS.
    pub peers: Peers,
    /// Ports that clients ask for on which everything is as without it.
    pub plain_ports: Vec<u16>,
}

/// Whether clear text is taken beside mTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtlsMode {
    /// It is, and so is TLS of the app's own.
    Permissive,
    /// It is not.
    Strict,
}

impl MtlsMode {
    /// The word for it in configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        }
    }
}

/// Who is meant; nobody, if there is no name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peers(pub Vec<PeerName>);

impl Default for Peers {
    /// Everybody in our own trust domain.
    fn default() -> Self {
        Self(vec![PeerName::anyone()])
    }
}

/// What is spoken inside, as both sides agree on it by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, from its preface on.
    Http2,
    /// Bytes.
    Opaque,
}

impl Inner {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Opaque];

    /// The name that is agreed on. The number is the version of what the sides owe each other beside TLS.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"tidegate/1+http/1.1",
            Self::Http2 => b"tidegate/1+h2",
            Self::Opaque => b"tidegate/1+tcp",
        }
    }

    /// What a name means.
    pub fn of_alpn(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|inner| inner.alpn() == name)
    }

    /// How a protocol goes. Where endpoints would be asked by ALPN what they speak, nobody is: what the other sidecar says
    /// is not what its app speaks.
    pub const fn of(protocol: BackendProtocol) -> Self {
        match protocol {
            BackendProtocol::H2c => Self::Http2,
            BackendProtocol::Http1 | BackendProtocol::Auto => Self::Http1,
        }
    }
}

/// Why a peer with a good chain is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// Its certificate is no workload's.
    #[error("{0}")]
    NoId(SpiffeError),
    /// It is of another trust domain than we.
    #[error("{0} is not of our own trust domain")]
    TrustDomain(SpiffeId),
    /// It is none of those that are meant.
    #[error("{0} is none of those that may be there")]
    NotAllowed(SpiffeId),
}

impl PeerRefused {
    /// The reason within an error of the library.
    pub fn of(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => reason.downcast_ref(),
            _ => None,
        }
    }
}

impl From<PeerRefused> for Error {
    fn from(refused: PeerRefused) -> Self {
        CertificateError::Other(OtherError(Arc::new(refused))).into()
    }
}

/// Asks a peer who it is, on either side.
#[derive(Clone)]
pub struct PeerVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust: TrustBundle,
    own: SpiffeId,
    peers: Peers,
}

impl PeerVerifier {
    /// For those that `peers` means, by what `identity` believes.
    ///
    /// # Errors
    /// The bundle cannot be used.
    pub fn new(identity: &Identity, peers: Peers) -> Result<Self, TrustError> {
        let roots = Arc::clone(identity.trust.roots());
        let chain = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()))
            .build()
            .map_err(|error| TrustError::Unusable(error.to_string()))?;
        Ok(Self {
            chain,
            trust: identity.trust.clone(),
            own: identity.id.clone(),
            peers,
        })
    }

    /// Who a certificate's holder is, if it may be there.
    fn admit(&self, certificate: &[u8]) -> Result<(), PeerRefused> {
        let id = SpiffeId::of_certificate(certificate).map_err(PeerRefused::NoId)?;
        if id.trust_domain() != self.own.trust_domain() {
            return Err(PeerRefused::TrustDomain(id));
        }
        let own = self.own.trust_domain();
        match self.peers.0.iter().any(|name| name.means(&id, own)) {
            true => Ok(()),
            false => Err(PeerRefused::NotAllowed(id)),
        }
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("PeerVerifier");
        debug
            .field("own", &self.own)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Peers have one certificate; who signs is nobody's business.
        &[]
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(own, others, now)?;
        self.admit(own)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _asked_for: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_chain(self.trust.roots(), own, others, now)?;
        self.admit(own)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tls::Origin;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
    use std::time::SystemTime;

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        pem: String,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            let issuer = Issuer::new(params, key);
            Self { issuer, pem }
        }

        fn sign(&self, uris: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Arc<Certificate> {
            let mut params = CertificateParams::default();
            params.subject_alt_names = uris
                .iter()
                .map(|uri| SanType::URI((*uri).try_into().unwrap()))
                .collect();
            edit(&mut params);
            let key = KeyPair::generate().unwrap();
            let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
            let pem = key.serialize_pem();
            let made = Certificate::from_pem(
                Origin::Named("x".into()),
                chain.as_bytes(),
                pem.as_bytes(),
                SystemTime::now(),
            );
            Arc::new(made.unwrap())
        }

        fn trust(&self) -> TrustBundle {
            TrustBundle::from_pem("ca.crt", self.pem.as_bytes()).unwrap()
        }
    }

    #[test]
    fn an_identity_is_a_workloads() {
        let authority = Authority::new();
        let name = "spiffe://example.org/ns/shop/sa/web";
        let identity = Identity::new(authority.sign(&[name], |_| {}), authority.trust()).unwrap();
        assert_eq!(identity.id.as_str(), name);
        let signs = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        for (certificate, reason) in [
            (authority.sign(&[], |_| {}), "no URI"),
            (
                authority.sign(&[name, "spiffe://example.org/b"], |_| {}),
                "more than one",
            ),
            (
                authority.sign(&["https://example.org/b"], |_| {}),
                "begins with spiffe",
            ),
            (authority.sign(&[name], signs), "may sign others"),
        ] {
            let error = Identity::new(certificate, authority.trust())
                .unwrap_err()
                .to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_peer_is_refused_for_one_reason_on_either_side() {
        let (authority, other) = (Authority::new(), Authority::new());
        let name = "spiffe://example.org/ns/shop/sa/web";
        let identity = Identity::new(authority.sign(&[name], |_| {}), authority.trust()).unwrap();
        let peers = Peers(vec![PeerName::parse("/ns/shop/*").unwrap()]);
        let verifier = PeerVerifier::new(&identity, peers).unwrap();
        let past = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let late = UnixTime::since_unix_epoch(std::time::Duration::from_secs(5_000_000_000));
        let now = UnixTime::now();
        for (certificate, at, reason) in [
            (authority.sign(&[name], |_| {}), now, ""),
            (
                authority.sign(&["spiffe://example.org/ns/shop/sa/b"], |_| {}),
                now,
                "",
            ),
            (other.sign(&[name], |_| {}), now, "InvalidCertificate("),
            (authority.sign(&[name], past), late, "Expired"),
            (authority.sign(&[], |_| {}), now, "NoId"),
            (
                authority.sign(&["spiffe://other.org/ns/shop/sa/b"], |_| {}),
                now,
                "TrustDomain",
            ),
            (
                authority.sign(&["spiffe://example.org/ns/bank/sa/b"], |_| {}),
                now,
                "NotAllowed",
            ),
        ] {
            let leaf = &certificate.key().cert[0];
            let as_client = verifier.verify_client_cert(leaf, &[], at).map(|_| ());
            let server = ServerName::try_from("peer").unwrap();
            let as_server = verifier
                .verify_server_cert(leaf, &[], &server, &[], at)
                .map(|_| ());
            for said in [as_client, as_server] {
                let said = said.map_or_else(|error| format!("{error:?}"), |()| String::new());
                assert_eq!(said.is_empty(), reason.is_empty(), "{said}");
                assert!(said.contains(reason), "{reason}: {said}");
            }
        }
    }

    #[test]
    fn what_is_spoken_inside_has_a_name_of_its_own() {
        for inner in Inner::ALL {
            assert_eq!(Inner::of_alpn(inner.alpn()), Some(inner));
        }
        for foreign in [&b"h2"[..], b"http/1.1", b"istio", b"tidegate/2+h2"] {
            assert_eq!(Inner::of_alpn(foreign), None);
        }
    }
}
