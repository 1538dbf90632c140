//! Endpoints that are known by name: one for each address that the name has at the moment.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{BackendProtocol, Endpoint, EndpointState};

/// A name that the system's resolver is asked for, in lower case, without the dot at its end. One label is enough: `app`,
/// `localhost`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(Arc<str>);

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsNameError {
    /// Its length (RFC 1035 §2.3.4).
    #[error("a name has 1 to 253 characters")]
    Length,
    /// A label.
    #[error("the parts of a name have 1 to 63 letters, digits, '_' or inner '-'")]
    Label,
    /// The last label has no letter, so that an address was meant.
    #[error("it is neither an address nor a name")]
    Number,
}

impl DnsName {
    /// Reads a name; upper case is folded.
    ///
    /// # Errors
    /// It cannot be one.
    pub fn parse(text: &str) -> Result<Self, DnsNameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > 253 {
            return Err(DnsNameError::Length);
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !text.split('.').all(is_label) {
            return Err(DnsNameError::Label);
        }
        // No top-level domain is a number (RFC 3696 §2), but the last part of an IPv4 address is.
        let last = text.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DnsNameError::Number);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Endpoints of a backend that are found under a name, and what they have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEndpoint {
    /// The name.
    pub name: DnsName,
    /// Their port.
    pub port: u16,
    /// The share of each beside others; never 0.
    pub weight: u32,
    /// Whether they take new requests.
    pub state: EndpointState,
    /// What they speak, when it differs from the backend's.
    pub protocol: Option<BackendProtocol>,
    /// Their zone, if known.
    pub zone: Option<Arc<str>>,
    /// 0 is used first, as with [`Endpoint::priority`].
    pub priority: u8,
    /// What they are shown as; their addresses otherwise.
    pub label: Option<Arc<str>>,
}

impl NamedEndpoint {
    /// Nothing but a name and a port.
    pub fn new(name: DnsName, port: u16) -> Self {
        Self {
            name,
            port,
            weight: 1,
            state: EndpointState::Active,
            protocol: None,
            zone: None,
            priority: 0,
            label: None,
        }
    }

    /// The endpoint at one of the name's addresses.
    pub fn at(&self, address: IpAddr) -> Endpoint {
        Endpoint {
            weight: self.weight,
            state: self.state,
            protocol: self.protocol,
            zone: self.zone.clone(),
            priority: self.priority,
            label: self.label.clone(),
            ..Endpoint::at(SocketAddr::new(address, self.port))
        }
    }
}

impl fmt::Display for NamedEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.name, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, expected) in [
            ("app", Ok("app")),
            ("App.Example.COM.", Ok("app.example.com")),
            ("_http._tcp.app", Ok("_http._tcp.app")),
            ("1password.com", Ok("1password.com")),
            ("", Err(DnsNameError::Length)),
            (".", Err(DnsNameError::Length)),
            ("a..b", Err(DnsNameError::Label)),
            ("-a.b", Err(DnsNameError::Label)),
            ("a b", Err(DnsNameError::Label)),
            ("10.0.0", Err(DnsNameError::Number)),
            ("300.1.1.1", Err(DnsNameError::Number)),
        ] {
            let name = DnsName::parse(text);
            assert_eq!(
                name.as_ref().map(DnsName::as_str).map_err(|error| *error),
                expected,
                "{text}"
            );
        }
        assert!(DnsName::parse(&"a.".repeat(127)).is_ok());
        assert_eq!(DnsName::parse(&"a.".repeat(128)), Err(DnsNameError::Length));
        assert_eq!(DnsName::parse(&"a".repeat(64)), Err(DnsNameError::Label));
    }
}
