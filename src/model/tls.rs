//! TLS as the user asked for it: certificates with their keys, whom to trust, how clients are identified. Everything is
//! parsed and checked here, so that what exists can be used: a key belongs to its certificate, a bundle has roots.
//!
//! Whoever reads a file or a Secret makes these types from bytes; nothing below knows where they came from. A private
//! key is never printed.

pub mod agent;
pub mod certificate;
pub mod client_auth;
pub mod managed;
pub mod mtls;
pub mod spiffe;
pub mod subject;
pub mod trust;
pub mod upstream;

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;

pub use agent::AgentAddress;
pub use certificate::{Certificate, CertificateError, Origin, Part};
pub use client_auth::{ClientAuth, ClientAuthMode};
pub use managed::{AlpnAnswer, Challenges, ManagedName, ManagedNameError};
pub use mtls::{Identity, InboundMtls, Inner, MtlsMode, PeerRefused, PeerVerifier, Peers};
pub use spiffe::{PeerName, SpiffeError, SpiffeId};
pub use subject::{Subject, SubjectName};
pub use trust::{TrustBundle, TrustError};
pub use upstream::{Roots, UpstreamTls, UpstreamTlsError};

/// What does the cryptography of every connection: aws-lc, with the post-quantum key exchange first, and AES-128 with
/// SHA-256 before AES-256 with SHA-384. Nobody breaks either, browsers ask for them in this order too, and processors
/// have instructions for SHA-256 where they have none for SHA-384: a handshake costs a tenth less.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.sort_by_key(|suite| {
            // The sort is stable: among the others the library's order stays.
            match suite.suite() {
                CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
                CipherSuite::TLS13_AES_256_GCM_SHA384 => 1,
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => 2,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => 3,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 4,
                _ => 5,
            }
        });
        Arc::new(provider)
    });
    &PROVIDER
}

/// How a listener ends TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// Which one a client gets is decided by the name that it asks for and the signatures that it knows.
    pub certificates: Vec<Arc<Certificate>>,
    /// Names whose certificates are got and renewed by Tidegate itself, and come as a change of their own
    /// ([`Delta::certificates`](crate::model::Delta::certificates)). Without these there is at least one certificate.
    pub managed: Vec<ManagedName>,
    /// The versions offered.
    pub versions: TlsVersions,
    /// Whether a client that asks for a name that no certificate has is refused. If not, it gets the first certificate.
    pub strict_sni: bool,
    /// Whether clients identify themselves.
    pub client_auth: Option<Arc<ClientAuth>>,
}

impl ListenerTls {
    /// TLS with these certificates and what needs no tuning; none without a certificate.
    pub fn new(certificates: Vec<Arc<Certificate>>) -> Option<Self> {
        Self::managing(certificates, Vec::new())
    }

    /// The same, with names whose certificates come later; none without either.
    pub fn managing(certificates: Vec<Arc<Certificate>>, managed: Vec<ManagedName>) -> Option<Self> {
        let some = !certificates.is_empty() || !managed.is_empty();
        some.then_some(Self {
            certificates,
            managed,
            versions: TlsVersions::default(),
            strict_sni: false,
            client_auth: None,
        })
    }
}

/// A version of TLS. Older ones are not spoken (RFC 8996).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), with forward secrecy and authenticated encryption only.
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

impl TlsVersion {
    /// As it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text())
    }
}

/// A range of versions; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsVersions {
    lowest: TlsVersion,
    highest: TlsVersion,
}

impl Default for TlsVersions {
    fn default() -> Self {
        Self {
            lowest: TlsVersion::V1_2,
            highest: TlsVersion::V1_3,
        }
    }
}

impl TlsVersions {
    /// From one version to another; none when they are the wrong way round.
    pub fn between(lowest: TlsVersion, highest: TlsVersion) -> Option<Self> {
        (lowest <= highest).then_some(Self { lowest, highest })
    }

    /// The lowest.
    pub fn lowest(self) -> TlsVersion {
        self.lowest
    }

    /// The highest.
    pub fn highest(self) -> TlsVersion {
        self.highest
    }

    /// As the library wants them.
    pub fn supported(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        use rustls::version::{TLS12, TLS13};
        static V1_2: &[&rustls::SupportedProtocolVersion] = &[&TLS12];
        static V1_3: &[&rustls::SupportedProtocolVersion] = &[&TLS13];
        static BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS13, &TLS12];
        match (self.lowest, self.highest) {
            (_, TlsVersion::V1_2) => V1_2,
            (TlsVersion::V1_3, TlsVersion::V1_3) => V1_3,
            (TlsVersion::V1_2, TlsVersion::V1_3) => BOTH,
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
pub(crate) use testing::{test_certificate, test_pair};
