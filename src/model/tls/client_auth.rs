//! How clients of a listener identify themselves by a certificate.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::{Subject, SubjectName, TrustBundle, TrustError, provider};

/// Whose certificates a listener takes.
#[derive(Clone)]
pub struct ClientAuth {
    /// Whether a client may come without.
    pub mode: ClientAuthMode,
    /// Who may have signed it.
    pub trust: TrustBundle,
    /// Where the revocation lists came from.
    pub crl_origins: Vec<Arc<str>>,
    /// One of these must be among its names; all are taken when there is none here.
    pub allow: Vec<SubjectName>,
    lists: Vec<CertificateRevocationListDer<'static>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// Whether a client may come without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthMode {
    /// It may not.
    Required,
    /// It may; but a certificate that it shows must be good.
    Optional,
    /// It may, and one that it shows proves nothing but that it has the key.
    Unverified,
}

impl ClientAuth {
    /// Clients with certificates by `trust`, that are not on one of the `lists` (each with its origin), and have one of
    /// the names in `allow`. With lists, each signer in a client's chain needs one, and it must not be out of date.
    ///
    /// # Errors
    /// A list that cannot be used.
    pub fn new(
        mode: ClientAuthMode,
        trust: TrustBundle,
        lists: Vec<(Arc<str>, Vec<CertificateRevocationListDer<'static>>)>,
        allow: Vec<SubjectName>,
    ) -> Result<Self, TrustError> {
        let (crl_origins, lists): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
        let lists: Vec<_> = lists.into_iter().flatten().collect();
        let roots = Arc::clone(trust.roots());
        let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()))
            .with_crls(lists.iter().cloned())
            .enforce_revocation_expiration();
        let builder = match mode {
            ClientAuthMode::Required => builder,
            ClientAuthMode::Optional | ClientAuthMode::Unverified => builder.allow_unauthenticated(),
        };
        let chain = builder
            .build()
            .map_err(|error| TrustError::Unusable(error.to_string()))?;
        let verifier = Arc::new(Allowed {
            chain,
            verifies: mode != ClientAuthMode::Unverified,
            allow: allow.clone(),
        });
        Ok(Self {
            mode,
            trust,
            crl_origins,
            allow,
            lists,
            verifier,
        })
    }

    /// As the library wants it.
    pub fn verifier(&self) -> &Arc<dyn ClientCertVerifier> {
        &self.verifier
    }
}

impl PartialEq for ClientAuth {
    fn eq(&self, other: &Self) -> bool {
        // The verifier follows from these.
        self.mode == other.mode
            && self.trust == other.trust
            && self.crl_origins == other.crl_origins
            && self.lists == other.lists
            && self.allow == other.allow
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientAuth")
            .field("mode", &self.mode)
            .field("trust", &self.trust)
            .field("crls", &self.crl_origins)
            .field("allow", &self.allow)
            .finish_non_exhaustive()
    }
}

/// First the chain, then the names.
#[derive(Debug)]
struct Allowed {
    chain: Arc<dyn ClientCertVerifier>,
    verifies: bool,
    allow: Vec<SubjectName>,
}

impl ClientCertVerifier for Allowed {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.verifies {
            return Ok(ClientCertVerified::assertion());
        }
        let verified = self.chain.verify_client_cert(own, others, now)?;
        if self.allow.is_empty() {
            return Ok(verified);
        }
        let subject = Subject::of(own).ok_or(CertificateError::BadEncoding)?;
        if self.allow.iter().any(|name| name.is_among(&subject)) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
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
