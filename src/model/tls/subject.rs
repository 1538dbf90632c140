//! Names within certificates of peers: who a certificate says that its holder is, and who is wanted.

use std::fmt;
use std::sync::Arc;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::model::HostPattern;

/// A name that a peer's certificate must have among its subject alternative names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    /// A DNS name. `*.suffix` is any name with one label before the suffix.
    Dns(HostPattern),
    /// A URI, whole: `spiffe://example.org/ns/shop/sa/web`.
    Uri(Arc<str>),
    /// The start of a URI up to a `/`, written with a star behind it: `spiffe://example.org/ns/shop/*`.
    UriBelow(Arc<str>),
}

/// What a certificate says of its holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The distinguished name (RFC 4514 as far as it is readable); may be empty.
    pub name: String,
    /// DNS names as written.
    pub dns: Vec<String>,
    /// URIs as written.
    pub uris: Vec<String>,
}

impl SubjectName {
    /// Reads `dns:web.example.com`, `dns:*.example.com`, `spiffe://example.org/web` or `uri:https://example.org/*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("dns:") {
            return match HostPattern::parse(name) {
                Ok(HostPattern::Wildcard(suffix)) => Ok(Self::Dns(HostPattern::SingleLabelWildcard(suffix))),
                Ok(HostPattern::Any) => Err("dns:* would be every name".to_owned()),
                Ok(name) => Ok(Self::Dns(name)),
                Err(error) => Err(error.to_string()),
            };
        }
        let uri = text.strip_prefix("uri:").unwrap_or(text);
        let scheme_end = uri.find("://").filter(|at| *at > 0);
        let Some(scheme_end) = scheme_end else {
            return Err(format!(
                "{text:?} is neither dns:NAME nor a URI like spiffe://DOMAIN/PATH"
            ));
        };
        let after = &uri[scheme_end + 3..];
        match uri.strip_suffix("/*") {
            _ if after.is_empty() || after.starts_with(['/', '*']) => {
                Err(format!("{text:?} has no domain after ://"))
            }
            Some(below) if !below.contains('*') => Ok(Self::UriBelow(format!("{below}/").into())),
            None if !uri.contains('*') => Ok(Self::Uri(uri.into())),
            _ => Err(format!("{text:?}: a star can only stand at the end, behind a /")),
        }
    }

    /// Whether a certificate's holder has this name. URIs are compared byte by byte (RFC 5280 §7.4 leaves it there).
    pub fn is_among(&self, subject: &Subject) -> bool {
        match self {
            Self::Dns(pattern) => subject.dns.iter().any(|name| {
                let name = name.to_ascii_lowercase();
                // A certificate for a wildcard is not for each of its names.
                !name.contains('*') && pattern.matches(&name)
            }),
            Self::Uri(uri) => subject.uris.iter().any(|own| **own == **uri),
            Self::UriBelow(start) => subject.uris.iter().any(|own| {
                own.strip_prefix(&**start)
                    // No way up and out of what the start allows.
                    .is_some_and(|rest| {
                        !rest.is_empty() && rest.split('/').all(|part| !matches!(part, "." | ".."))
                    })
            }),
        }
    }
}

impl fmt::Display for SubjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(formatter, "dns:{name}"),
            Self::Uri(uri) => write!(formatter, "uri:{uri}"),
            Self::UriBelow(start) => write!(formatter, "uri:{start}*"),
        }
    }
}

impl Subject {
    /// What a certificate (DER) says; none when it cannot be read.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let mut subject = Self {
            name: certificate.subject().to_string(),
            ..Self::default()
        };
        if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
            for name in &alternatives.value.general_names {
                match name {
                    GeneralName::DNSName(name) => subject.dns.push((*name).to_owned()),
                    GeneralName::URI(uri) => subject.uris.push((*uri).to_owned()),
                    _ => {}
                }
            }
        }
        Some(subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_compared() {
        let subject = Subject {
            name: String::new(),
            dns: vec!["Web.example.com".into(), "*.wild.example".into()],
            uris: vec![
                "spiffe://example.org/ns/shop/sa/web".into(),
                "spiffe://a.org/x/../y".into(),
            ],
        };
        for (text, shown, among) in [
            ("dns:web.example.com", "dns:web.example.com", true),
            ("dns:*.example.com", "dns:*.example.com", true),
            ("dns:example.com", "dns:example.com", false),
            ("dns:a.wild.example", "dns:a.wild.example", false),
            (
                "spiffe://example.org/ns/shop/sa/web",
                "uri:spiffe://example.org/ns/shop/sa/web",
                true,
            ),
            (
                "spiffe://example.org/ns/shop/*",
                "uri:spiffe://example.org/ns/shop/*",
                true,
            ),
            ("spiffe://example.org/*", "uri:spiffe://example.org/*", true),
            (
                "uri:spiffe://example.org/ns/sho/*",
                "uri:spiffe://example.org/ns/sho/*",
                false,
            ),
            ("spiffe://a.org/x/*", "uri:spiffe://a.org/x/*", false),
            ("spiffe://example.org", "uri:spiffe://example.org", false),
        ] {
            let name = SubjectName::parse(text).unwrap();
            assert_eq!(
                (name.to_string().as_str(), name.is_among(&subject)),
                (shown, among),
                "{text}"
            );
        }
        for text in [
            "",
            "web",
            "dns:",
            "dns:*",
            "spiffe://",
            "spiffe:///x",
            "spiffe://*",
            "spiffe://a/*/b",
            "://a",
        ] {
            assert!(SubjectName::parse(text).is_err(), "{text}");
        }
    }
}
