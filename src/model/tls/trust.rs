//! Trust: bundles of root certificates, and lists of certificates that were taken back.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{Error, RootCertStore};

use super::certificate::pem_error;
use super::provider;

/// Root certificates that are trusted for something; at least one.
#[derive(Clone)]
pub struct TrustBundle {
    /// Where it came from, for messages and for showing.
    pub origin: Arc<str>,
    certificates: Arc<[CertificateDer<'static>]>,
    roots: Arc<RootCertStore>,
}

/// Why a bundle or a list cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The armour is broken.
    #[error("it is not PEM: {0}")]
    NotPem(String),
    /// There is nothing in it.
    #[error("there is no {0} in it")]
    Empty(&'static str),
    /// One of the certificates cannot be a root.
    #[error("certificate {nth} of it cannot be used as a root: {reason}")]
    BadRoot {
        /// Counted from 1.
        nth: usize,
        /// Why.
        reason: String,
    },
    /// The verifier cannot be made of what is given.
    #[error("{0}")]
    Unusable(String),
}

impl TrustBundle {
    /// Reads certificates in PEM. One that cannot be a root is an error: a trust that is smaller than written is found
    /// out too late.
    ///
    /// # Errors
    /// What keeps it from being used.
    pub fn from_pem(origin: &str, text: &[u8]) -> Result<Self, TrustError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let certificates = certificates.map_err(|error| TrustError::NotPem(pem_error(&error)))?;
        Self::from_der(origin, certificates)
    }

    /// The same of certificates in DER.
    ///
    /// # Errors
    /// What keeps them from being used.
    pub fn from_der(origin: &str, certificates: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for (at, certificate) in certificates.iter().enumerate() {
            roots
                .add(certificate.clone())
                .map_err(|error| TrustError::BadRoot {
                    nth: at + 1,
                    reason: error.to_string(),
                })?;
        }
        if roots.is_empty() {
            return Err(TrustError::Empty("certificate"));
        }
        Ok(Self {
            origin: origin.into(),
            certificates: certificates.into(),
            roots: Arc::new(roots),
        })
    }

    /// The system's, as its own programs use them (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured). Those that cannot
    /// be used are left out, as everywhere.
    ///
    /// # Errors
    /// The system has none.
    pub fn of_system() -> Result<Self, TrustError> {
        let certificates = rustls_native_certs::load_native_certs().certs;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        if roots.is_empty() {
            return Err(TrustError::Empty(
                "root certificate that can be used, not in the system's store (install ca-certificates, or name a file)",
            ));
        }
        Ok(Self {
            origin: "system".into(),
            certificates: certificates.into(),
            roots: Arc::new(roots),
        })
    }

    /// As the library wants it.
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

/// Checks that a server's certificate was signed by one of the roots, and is valid now. Its names are not looked at.
///
/// # Errors
/// It was not, is not, or cannot be read.
pub(super) fn verify_chain<'c>(
    roots: &RootCertStore,
    own: &'c CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<ParsedCertificate<'c>, Error> {
    let parsed = ParsedCertificate::try_from(own)?;
    let algorithms = provider().signature_verification_algorithms.all;
    rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, roots, others, now, algorithms)?;
    Ok(parsed)
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.origin == other.origin && self.certificates == other.certificates
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TrustBundle({}, {})", self.origin, self.roots.len())
    }
}

/// Lists of certificates that were taken back (RFC 5280 §5), in PEM.
///
/// # Errors
/// What keeps it from being used.
pub fn revocation_lists(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TrustError> {
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text).collect();
    let lists = lists.map_err(|error| TrustError::NotPem(pem_error(&error)))?;
    if lists.is_empty() {
        return Err(TrustError::Empty(
            "revocation list (a section BEGIN X509 CRL in PEM)",
        ));
    }
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tls::test_pair as pair;

    #[test]
    fn a_bundle_has_roots_or_is_none() {
        let (one, key) = pair(&["a"], false);
        let (two, _) = pair(&["b"], false);
        let bundle = TrustBundle::from_pem("x", format!("{one}{two}").as_bytes()).unwrap();
        assert_eq!(bundle.roots().len(), 2);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, error) in [
            (String::new(), "no certificate"),
            (key.clone(), "no certificate"),
            (format!("{one}{broken}"), "certificate 2"),
            ("-----BEGIN CERTIFICATE-----\n".to_owned(), "not PEM"),
        ] {
            let refused = TrustBundle::from_pem("x", text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(refused.contains(error), "{refused}");
        }
        assert!(revocation_lists(one.as_bytes()).is_err());
    }
}
