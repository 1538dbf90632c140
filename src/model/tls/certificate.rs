//! A certificate with its chain and its private key, which belong together.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::SignatureAlgorithm;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::provider;
use crate::model::HostPattern;

/// A certificate with its chain and its private key.
pub struct Certificate {
    /// Where it came from, for messages.
    pub origin: Origin,
    key: Arc<CertifiedKey>,
    names: Vec<HostPattern>,
    /// Seconds since 1970.
    not_before: i64,
    /// Seconds since 1970.
    not_after: i64,
}

/// Where a certificate came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Two files.
    Files {
        /// The chain.
        certificate: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// Something with a name: a Secret, the command line.
    Named(Arc<str>),
}

/// Which half of a pair is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The chain.
    Certificate,
    /// The private key.
    Key,
}

/// Why a pair cannot be used. No text of it has anything of the private key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// There is no section of the kind in the text.
    #[error("{}", missing(*.part, *.swapped))]
    Missing {
        /// Which half.
        part: Part,
        /// What is there is the other half.
        swapped: bool,
    },
    /// The armour is broken.
    #[error("it is not PEM: {0}")]
    NotPem(String, Part),
    /// The first certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    NotACertificate(String),
    /// The private key cannot be used.
    #[error(
        "the private key cannot be used: {0}; RSA from 2048 bits, ECDSA P-256, P-384, P-521 and Ed25519 can"
    )]
    BadKey(String),
    /// The key is that of another certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// It is too old.
    #[error("the certificate expired {}", ago(*.0))]
    Expired(Duration),
}

impl CertificateError {
    /// Which half is to blame.
    pub fn part(&self) -> Part {
        match self {
            Self::Missing { part, .. } | Self::NotPem(_, part) => *part,
            Self::NotACertificate(_) | Self::Expired(_) => Part::Certificate,
            Self::BadKey(_) | Self::Mismatch => Part::Key,
        }
    }
}

fn missing(part: Part, swapped: bool) -> &'static str {
    match (part, swapped) {
        (Part::Certificate, false) => "there is no certificate in it (a section BEGIN CERTIFICATE in PEM)",
        (Part::Certificate, true) => "there is a private key in it and no certificate",
        (Part::Key, false) => {
            "there is no private key in it (a section BEGIN PRIVATE KEY in PEM, not encrypted)"
        }
        (Part::Key, true) => "there is a certificate in it and no private key",
    }
}

fn ago(time: Duration) -> String {
    let hours = time.as_secs() / 3600;
    match hours {
        0 => "less than an hour ago".to_owned(),
        1..48 => format!("{hours} h ago"),
        _ => format!("{} days ago", hours / 24),
    }
}

impl Certificate {
    /// Reads a chain (the server's own certificate first) and its private key, both PEM; they may be the same text.
    ///
    /// # Errors
    /// Whatever keeps the pair from being used at `now`.
    pub fn from_pem(
        origin: Origin,
        chain: &[u8],
        key: &[u8],
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let chain = chain_of(chain)?;
        let key = key_of(key)?;
        Self::from_der(origin, chain, key, now)
    }

    /// From a chain that has at least one certificate and its key, both DER.
    ///
    /// # Errors
    /// Whatever keeps the pair from being used at `now`.
    pub fn from_der(
        origin: Origin,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let first = chain.first().ok_or(CertificateError::Missing {
            part: Part::Certificate,
            swapped: false,
        })?;
        let (_, leaf) = X509Certificate::from_der(first)
            .map_err(|error| CertificateError::NotACertificate(error.to_string()))?;
        let names = names_of(&leaf);
        let not_before = leaf.validity().not_before.timestamp();
        let not_after = leaf.validity().not_after.timestamp();
        let signing = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| CertificateError::BadKey(error.to_string()))?;
        let key = CertifiedKey::new(chain, signing);
        key.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch,
            other => CertificateError::NotACertificate(other.to_string()),
        })?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let since = i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(not_after);
        if since > 0 {
            return Err(CertificateError::Expired(Duration::from_secs(
                since.unsigned_abs(),
            )));
        }
        Ok(Self {
            origin,
            key: Arc::new(key),
            names,
            not_before,
            not_after,
        })
    }

    /// As the library wants it.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// The hostnames that it is for (RFC 6125: a wildcard stands for one label). Addresses are not among them: clients
    /// do not ask for one by name.
    pub fn names(&self) -> &[HostPattern] {
        &self.names
    }

    /// Whether it is for this hostname, which is in lower case.
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| name.matches(host))
    }

    /// Whether its key is RSA; the others are several times cheaper to sign with.
    pub fn is_rsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::RSA
    }

    /// When it begins, in seconds since 1970.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// When it ends, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        // The key belongs to the certificate, so it is the same if that is.
        self.origin == other.origin && self.key.cert == other.key.cert
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Certificate")
            .field("origin", &self.origin)
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Certificates in DER that stand one after another.
///
/// # Errors
/// One of them cannot be read.
pub fn split_der(mut bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (rest, _) = X509Certificate::from_der(bytes)
            .map_err(|error| CertificateError::NotACertificate(error.to_string()))?;
        let (certificate, _) = bytes.split_at(bytes.len() - rest.len());
        all.push(CertificateDer::from(certificate.to_vec()));
        bytes = rest;
    }
    Ok(all)
}

fn chain_of(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let chain = chain.map_err(|error| CertificateError::NotPem(pem_error(&error), Part::Certificate))?;
    if chain.is_empty() {
        return Err(CertificateError::Missing {
            part: Part::Certificate,
            swapped: PrivateKeyDer::from_pem_slice(text).is_ok(),
        });
    }
    Ok(chain)
}

fn key_of(text: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::Missing {
            part: Part::Key,
            swapped: CertificateDer::from_pem_slice(text).is_ok(),
        },
        other => CertificateError::NotPem(pem_error(&other), Part::Key),
    })
}

/// What is wrong with the armour, without the bytes that the library's own text may quote.
pub(super) fn pem_error(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section does not end",
        pem::Error::IllegalSectionStart { .. } => "a section's first line is broken",
        pem::Error::Base64Decode(_) => "a section has characters that are not base64",
        pem::Error::NoItemsFound => "there is no section",
        _ => "it cannot be read",
    }
    .to_owned()
}

fn names_of(leaf: &X509Certificate<'_>) -> Vec<HostPattern> {
    let Ok(Some(alternatives)) = leaf.subject_alternative_name() else {
        return Vec::new();
    };
    let texts = alternatives
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(text) => Some(*text),
            _ => None,
        });
    texts
        .filter_map(|text| HostPattern::parse(text).ok())
        .filter_map(|pattern| match pattern {
            HostPattern::Wildcard(suffix) => Some(HostPattern::SingleLabelWildcard(suffix)),
            HostPattern::Any => None,
            other => Some(other),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tls::test_pair as pair;
    use rcgen::{CertificateParams, KeyPair};

    fn read(chain: &str, key: &str) -> Result<Certificate, CertificateError> {
        let origin = Origin::Named("test".into());
        Certificate::from_pem(origin, chain.as_bytes(), key.as_bytes(), SystemTime::now())
    }

    #[test]
    fn a_pair_is_read_and_knows_its_names() {
        let (chain, key) = pair(&["Shop.example.com", "*.example.org", "192.0.2.1"], false);
        let certificate = read(&chain, &key).unwrap();
        for (host, covered) in [
            ("shop.example.com", true),
            ("a.example.org", true),
            ("b.a.example.org", false),
            ("example.org", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!(certificate.covers(host), covered, "{host}");
        }
        assert!(!certificate.is_rsa() && certificate.not_after() > 0);
        let both = format!("{key}{chain}");
        assert_eq!(read(&both, &both).unwrap(), certificate);
        assert_ne!(
            read(&pair(&["a"], false).0, &key).map_err(|_| ()),
            Ok(certificate)
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_half_and_never_with_the_key() {
        let (chain, key) = pair(&["a.example"], false);
        let (_, other) = pair(&["a.example"], false);
        let mut old = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        old.not_after = rcgen::date_time_ymd(2001, 2, 3);
        let own = KeyPair::generate().unwrap();
        let old = old.self_signed(&own).unwrap().pem();
        let broken = key.replace("-----END", "####\n-----END");
        for (chain, key, part, words) in [
            ("", key.as_str(), Part::Certificate, "no certificate in it"),
            (
                &key,
                &key,
                Part::Certificate,
                "a private key in it and no certificate",
            ),
            (&chain, "", Part::Key, "no private key in it"),
            (
                &chain,
                &chain,
                Part::Key,
                "a certificate in it and no private key",
            ),
            (&chain, &other, Part::Key, "does not belong"),
            (&chain, &broken, Part::Key, "not PEM"),
            (&chain[..chain.len() / 2], &key, Part::Certificate, "not PEM"),
            (&old, &own.serialize_pem(), Part::Certificate, "expired 9"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &key,
                Part::Certificate,
                "cannot be read",
            ),
            (
                &chain,
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                Part::Key,
                "cannot be used",
            ),
        ] {
            let error = read(chain, key).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.part(), part, "{error}");
            let secret: Vec<_> = key.lines().filter(|line| line.len() > 40).collect();
            assert!(
                secret
                    .iter()
                    .all(|line| !format!("{error:?}{error}").contains(line))
            );
        }
        let debug = format!("{:?}", read(&chain, &key).unwrap());
        assert!(debug.contains("a.example") && !debug.contains("PRIVATE"));
    }
}
