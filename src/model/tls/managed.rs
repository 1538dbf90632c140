//! Certificates that Tidegate gets by itself (ACME, RFC 8555): the names that listeners want them for, and what an
//! authority is answered that asks whether a name is ours.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::model::{DirectResponse, HostPattern};

/// A name that a certificate is got for: a hostname, or `*.suffix` for one label before the suffix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManagedName(HostPattern);

/// Why no certificate can be got for a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManagedNameError {
    /// It is no hostname.
    #[error("{0}")]
    NoHostname(String),
    /// It is an address.
    #[error("{0:?} is an address; certificates are got for names")]
    Address(String),
    /// It stands for every name.
    #[error("\"*\" stands for every name, and no certificate does")]
    Any,
    /// It has an underscore, which is allowed in names of DNS and not in hostnames.
    #[error("{0:?} has an underscore, which no certificate may have (RFC 5280 §4.2.1.6)")]
    Underscore(String),
}

impl ManagedName {
    /// Reads `shop.example.com` or `*.example.com`; upper case is folded.
    ///
    /// # Errors
    /// It is nothing that an authority signs.
    pub fn parse(text: &str) -> Result<Self, ManagedNameError> {
        if text.parse::<IpAddr>().is_ok() {
            return Err(ManagedNameError::Address(text.to_owned()));
        }
        if text.contains('_') {
            return Err(ManagedNameError::Underscore(text.to_owned()));
        }
        match HostPattern::parse(text) {
            Ok(HostPattern::Exact(name)) => Ok(Self(HostPattern::Exact(name))),
            Ok(HostPattern::Wildcard(suffix) | HostPattern::SingleLabelWildcard(suffix)) => {
                Ok(Self(HostPattern::SingleLabelWildcard(suffix)))
            }
            Ok(HostPattern::Any) => Err(ManagedNameError::Any),
            Err(error) => Err(ManagedNameError::NoHostname(error.to_string())),
        }
    }

    /// The hostnames that its certificate is for.
    pub fn pattern(&self) -> &HostPattern {
        &self.0
    }

    /// Whether it stands for more than one hostname.
    pub fn is_wildcard(&self) -> bool {
        matches!(self.0, HostPattern::SingleLabelWildcard(_))
    }

    /// The name without `*.`: where an authority looks.
    pub fn base(&self) -> &str {
        match &self.0 {
            HostPattern::Exact(name)
            | HostPattern::SingleLabelWildcard(name)
            | HostPattern::Wildcard(name) => name,
            HostPattern::Any => "",
        }
    }
}

impl fmt::Display for ManagedName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_wildcard() { "*." } else { "" };
        write!(formatter, "{star}{}", self.base())
    }
}

/// What authorities are answered while orders run: all of it, there is no more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Challenges {
    /// By token: what is said in clear text below `/.well-known/acme-challenge/` (RFC 8555 §8.3).
    pub http: BTreeMap<Arc<str>, DirectResponse>,
    /// By hostname: what is shown to who speaks `acme-tls/1` (RFC 8737).
    pub alpn: BTreeMap<Arc<str>, AlpnAnswer>,
}

impl Challenges {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.http.is_empty() && self.alpn.is_empty()
    }
}

/// The certificate that answers `acme-tls/1`. It has an extension that must be understood, and only authorities do.
#[derive(Clone)]
pub struct AlpnAnswer(pub Arc<CertifiedKey>);

impl PartialEq for AlpnAnswer {
    fn eq(&self, other: &Self) -> bool {
        self.0.cert == other.0.cert
    }
}

impl fmt::Debug for AlpnAnswer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AlpnAnswer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_others_refused() {
        for (text, shown, base, wildcard) in [
            ("Shop.Example.com", "shop.example.com", "shop.example.com", false),
            ("*.example.com", "*.example.com", "example.com", true),
        ] {
            let name = ManagedName::parse(text).unwrap();
            assert_eq!(
                (name.to_string().as_str(), name.base(), name.is_wildcard()),
                (shown, base, wildcard)
            );
        }
        let name = ManagedName::parse("*.example.com").unwrap();
        assert!(name.pattern().matches("a.example.com") && !name.pattern().matches("b.a.example.com"));
        for (text, words) in [
            ("*", "every name"),
            ("192.0.2.1", "is an address"),
            ("2001:db8::1", "is an address"),
            ("a_b.example.com", "underscore"),
            ("a..b", "each label"),
            ("https://a.example", "has a"),
            ("", "it is empty"),
        ] {
            let error = ManagedName::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
