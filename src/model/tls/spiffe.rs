//! SPIFFE: names of workloads within a trust domain, and which of them are meant.
//!
//! Sources: SPIFFE-ID §2 (what a name may contain), X509-SVID §2 and §5 (how a certificate carries it).

use std::fmt;
use std::sync::Arc;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A workload's name: `spiffe://example.org/ns/shop/sa/web`. One without a path is a trust domain's, and no workload's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins, which is at a `/`.
    path_at: usize,
}

/// Which names are meant: one, or all below a path. Its trust domain is the one that it names, else our own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerName {
    trust_domain: Option<Arc<str>>,
    /// With the `/` in front; of [`Self::below`] also with one behind.
    path: Arc<str>,
    below: bool,
}

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", shown(text))]
pub struct SpiffeError {
    /// Empty: the certificate that should have carried it is to blame.
    text: String,
    reason: &'static str,
}

fn shown(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!("{text:?} is no SPIFFE id: "),
    }
}

const SCHEME: &str = "spiffe://";
/// Bytes of a name (SPIFFE-ID §2.3), and of its trust domain (§2.1).
const MAX_ID: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;

impl SpiffeId {
    /// Reads a workload's name.
    ///
    /// # Errors
    /// What keeps it from being one.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        let fail = |reason| SpiffeError {
            text: text.chars().take(MAX_ID).collect(),
            reason,
        };
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| fail("it begins with spiffe://"))?;
        if text.len() > MAX_ID {
            return Err(fail("it is longer than 2048 bytes"));
        }
        let slash = rest
            .find('/')
            .ok_or_else(|| fail("it has no path, and so is no workload's"))?;
        check_trust_domain(&rest[..slash]).map_err(fail)?;
        check_path(&rest[slash..]).map_err(fail)?;
        Ok(Self {
            text: text.into(),
            path_at: SCHEME.len() + slash,
        })
    }

    /// The name that a certificate (DER) carries, as a leaf: exactly one URI, and no right to sign others.
    ///
    /// # Errors
    /// What keeps it from being a workload's.
    pub fn of_certificate(certificate: &[u8]) -> Result<Self, SpiffeError> {
        let fail = |reason| SpiffeError {
            text: String::new(),
            reason,
        };
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| fail("the certificate cannot be read"))?;
        let signs = |usage: &x509_parser::extensions::KeyUsage| usage.key_cert_sign() || usage.crl_sign();
        if certificate.is_ca()
            || (certificate.key_usage())
                .map_err(|_| fail("its key usage cannot be read"))?
                .is_some_and(|usage| signs(usage.value))
        {
            return Err(fail(
                "the certificate may sign others, which a workload's may not",
            ));
        }
        let alternatives = certificate
            .subject_alternative_name()
            .map_err(|_| fail("its names cannot be read"))?;
        let names = alternatives.iter().flat_map(|names| &names.value.general_names);
        let mut uris = names.filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        match (uris.next(), uris.next()) {
            (Some(uri), None) => Self::parse(uri),
            (None, _) => Err(fail("the certificate has no URI among its names")),
            (Some(_), Some(_)) => Err(fail("the certificate has more than one URI among its names")),
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain: who vouches for it.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path_at]
    }

    /// The path, with the `/` in front.
    pub fn path(&self) -> &str {
        &self.text[self.path_at..]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl PeerName {
    /// Reads `spiffe://example.org/ns/shop/sa/web`, `spiffe://example.org/ns/shop/*`, or the same without the trust domain,
    /// which is our own then: `/ns/shop/sa/web`, `/*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        let fail = |reason| SpiffeError {
            text: text.to_owned(),
            reason,
        };
        let (trust_domain, path) = match text.strip_prefix(SCHEME) {
            Some(rest) => {
                let slash = rest
                    .find('/')
                    .ok_or_else(|| fail("it has no path; write /* behind it for the whole trust domain"))?;
                check_trust_domain(&rest[..slash]).map_err(fail)?;
                (Some(Arc::from(&rest[..slash])), &rest[slash..])
            }
            None if text.starts_with('/') => (None, text),
            None => {
                return Err(fail(
                    "it begins with spiffe://, or with a / for our own trust domain",
                ));
            }
        };
        let (checked, below) = match path.strip_suffix("/*") {
            Some(above) => (above, true),
            None => (path, false),
        };
        if !(below && checked.is_empty()) {
            check_path(checked).map_err(fail)?;
        }
        let path = if below { &path[..path.len() - 1] } else { path };
        Ok(Self {
            trust_domain,
            path: path.into(),
            below,
        })
    }

    /// All workloads of our own trust domain.
    pub fn anyone() -> Self {
        Self::below("/")
    }

    /// All workloads of our own trust domain in a namespace, where names are `/ns/NAMESPACE/sa/ACCOUNT`; none where the
    /// namespace's name cannot be part of such a name.
    pub fn of_namespace(namespace: &str) -> Option<Self> {
        check_path(&format!("/ns/{namespace}")).ok()?;
        Some(Self::below(&format!("/ns/{namespace}/")))
    }

    fn below(path: &str) -> Self {
        Self {
            trust_domain: None,
            path: path.into(),
            below: true,
        }
    }

    /// The trust domain that it names, if it names one.
    pub fn trust_domain(&self) -> Option<&str> {
        self.trust_domain.as_deref()
    }

    /// Whether this is who is meant. `own`: our own trust domain.
    pub fn means(&self, id: &SpiffeId, own: &str) -> bool {
        id.trust_domain() == self.trust_domain().unwrap_or(own)
            && match self.below {
                true => id.path().starts_with(&*self.path),
                false => id.path() == &*self.path,
            }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(trust_domain) = &self.trust_domain {
            write!(formatter, "{SCHEME}{trust_domain}")?;
        }
        write!(formatter, "{}{}", self.path, if self.below { "*" } else { "" })
    }
}

fn check_trust_domain(text: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    match text.len() {
        0 => Err("it has no trust domain"),
        length if length > MAX_TRUST_DOMAIN => Err("its trust domain is longer than 255 bytes"),
        _ if !text.bytes().all(fits) => {
            Err("a trust domain has lower-case letters, digits, dots, hyphens and underscores")
        }
        _ => Ok(()),
    }
}

/// A path with segments: none empty, none that leads up.
fn check_path(path: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let Some(rest) = path.strip_prefix('/') else {
        return Err("its path begins with a /");
    };
    for segment in rest.split('/') {
        match segment {
            "" => return Err("a segment of its path is empty"),
            "." | ".." => return Err("its path leads elsewhere"),
            segment if segment.contains('*') => {
                return Err("a star can only stand at the end, behind a /");
            }
            segment if !segment.bytes().all(fits) => {
                return Err("a path has letters, digits, dots, hyphens and underscores");
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_standard_has_them() {
        let id = SpiffeId::parse("spiffe://example.org/ns/shop/sa/web").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("example.org", "/ns/shop/sa/web"));
        let long = format!("spiffe://{}/a", "a".repeat(256));
        let longer = format!("spiffe://a/{}", "a".repeat(2048));
        for (text, reason) in [
            ("https://example.org/a", "begins with spiffe"),
            ("spiffe://example.org", "no path"),
            ("spiffe:///a", "no trust domain"),
            ("spiffe://Example.org/a", "lower-case"),
            ("spiffe://example.org:443/a", "lower-case"),
            ("spiffe://example.org/", "empty"),
            ("spiffe://example.org/a/", "empty"),
            ("spiffe://example.org/a//b", "empty"),
            ("spiffe://example.org/a/../b", "leads elsewhere"),
            ("spiffe://example.org/a%2fb", "letters"),
            ("spiffe://example.org/a*", "star"),
            (&long, "longer than 255"),
            (&longer, "longer than 2048"),
        ] {
            let error = SpiffeId::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn peers_are_meant_by_name_or_by_path() {
        let id = SpiffeId::parse("spiffe://example.org/ns/shop/sa/web").unwrap();
        for (text, own, means) in [
            ("spiffe://example.org/ns/shop/sa/web", "example.org", true),
            ("spiffe://example.org/ns/shop/sa/web", "other.org", true),
            ("spiffe://other.org/ns/shop/sa/web", "example.org", false),
            ("spiffe://example.org/ns/shop/*", "example.org", true),
            ("spiffe://example.org/ns/sho/*", "example.org", false),
            ("spiffe://example.org/*", "example.org", true),
            ("/ns/shop/sa/web", "example.org", true),
            ("/ns/shop/sa/web", "other.org", false),
            ("/ns/shop/sa/*", "example.org", true),
            ("/ns/shop/sa", "example.org", false),
            ("/*", "example.org", true),
            ("/*", "other.org", false),
        ] {
            let name = PeerName::parse(text).unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(name.means(&id, own), means, "{text} {own}");
        }
        assert_eq!(PeerName::anyone().to_string(), "/*");
        assert_eq!(PeerName::of_namespace("shop").unwrap().to_string(), "/ns/shop/*");
        assert_eq!(PeerName::of_namespace("sh/op/.."), None);
        for text in [
            "",
            "web",
            "spiffe://example.org",
            "spiffe:///*",
            "/",
            "/a/",
            "/a/*/b",
            "/a*",
            "/../*",
            "//*",
        ] {
            assert!(PeerName::parse(text).is_err(), "{text}");
        }
    }
}
