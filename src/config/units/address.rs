//! Addresses and networks, and what is probably meant by a text that is none.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::{UnitError, fail};
use crate::model::{Backend, DnsName, Endpoint, NamedEndpoint};

/// Reads where to listen: `:8080` and `*:8080` are every IPv4 address, `[::]:8080` every IPv6 one.
/// Port 0 asks the kernel for a free one.
pub fn listen_address(text: &str) -> Result<SocketAddr, UnitError> {
    const WHAT: &str = "an address to listen on";
    if let Some(port) = text.strip_prefix("*:").or_else(|| text.strip_prefix(':'))
        && let Some(port) = port_of(port)
    {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    }
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if port_of(text).is_some() {
        return fail(text, WHAT, format!("did you mean \":{text}\"?"));
    }
    fail(
        text,
        WHAT,
        address_hint(text)
            .unwrap_or_else(|| "write \":8080\", \"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned()),
    )
}

/// Where endpoints are: at an address, or at those that a name has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointPlace {
    /// One endpoint.
    Address(SocketAddr),
    /// As many as the name has addresses.
    Named(DnsName, u16),
}

impl EndpointPlace {
    /// Gives a backend what is there.
    pub fn put_into(self, backend: &mut Backend, endpoints: &mut Vec<Endpoint>) {
        match self {
            Self::Address(address) => endpoints.push(Endpoint::at(address)),
            Self::Named(name, port) => backend.named.push(NamedEndpoint::new(name, port)),
        }
    }
}

impl fmt::Display for EndpointPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(formatter, "{address}"),
            Self::Named(name, port) => write!(formatter, "{name}:{port}"),
        }
    }
}

/// Reads where endpoints are: an IP address or a name, with a port other than 0.
pub fn endpoint_place(text: &str) -> Result<EndpointPlace, UnitError> {
    let named = text
        .rsplit_once(':')
        .filter(|(host, _)| !host.contains([':', '[', '/']));
    let Some((host, port)) = named.filter(|(host, _)| host.bytes().any(|byte| byte.is_ascii_alphabetic()))
    else {
        return endpoint_address(text).map(EndpointPlace::Address);
    };
    const WHAT: &str = "where endpoints are";
    match (DnsName::parse(host), port_of(port)) {
        (Err(error), _) => fail(text, WHAT, error.to_string()),
        (_, None | Some(0)) => fail(text, WHAT, "an endpoint has a port from 1 to 65535"),
        (Ok(name), Some(port)) => Ok(EndpointPlace::Named(name, port)),
    }
}

/// Reads the address of an endpoint: an IP address with a port other than 0.
pub fn endpoint_address(text: &str) -> Result<SocketAddr, UnitError> {
    const WHAT: &str = "the address of an endpoint";
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => fail(text, WHAT, "an endpoint has a port from 1 to 65535"),
        Ok(address) if address.ip().is_unspecified() => fail(
            text,
            WHAT,
            format!("did you mean \"127.0.0.1:{}\"?", address.port()),
        ),
        Ok(address) => Ok(address),
        Err(_) => {
            let hint = match text.strip_prefix(':').and_then(port_of) {
                Some(port) => Some(format!("did you mean \"127.0.0.1:{port}\"?")),
                None => address_hint(text),
            };
            fail(
                text,
                WHAT,
                hint.unwrap_or_else(|| "write an IP address with a port: 10.0.0.1:3000".to_owned()),
            )
        }
    }
}

/// What is probably meant by a text that is no address.
fn address_hint(text: &str) -> Option<String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return Some(format!("write it without {scheme}://: \"{rest}\""));
    }
    let host_and_port = text
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port_of(port)?)));
    if let Some((host, port)) = host_and_port
        && let Ok(ip) = host.parse::<Ipv6Addr>()
    {
        return Some(format!("IPv6 addresses stand in brackets: \"[{ip}]:{port}\""));
    }
    match text.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => return Some(format!("a port is missing: \"{ip}:PORT\"")),
        Ok(IpAddr::V6(ip)) => return Some(format!("a port is missing: \"[{ip}]:PORT\"")),
        Err(_) => {}
    }
    let (host, port) = host_and_port?;
    if host == "localhost" {
        return Some(format!("did you mean \"127.0.0.1:{port}\"?"));
    }
    host.bytes()
        .any(|byte| byte.is_ascii_alphabetic())
        .then(|| "no name can stand here: write an IP address".to_owned())
}

fn port_of(text: &str) -> Option<u16> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// Reads `10.0.0.0/8` or one address.
pub fn network(text: &str) -> Result<IpNet, UnitError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    match text.parse::<IpNet>() {
        Ok(network) if network.trunc() != network => fail(
            text,
            "a network",
            format!("bits are set after the prefix: did you mean {}?", network.trunc()),
        ),
        Ok(network) => Ok(network),
        Err(_) => fail(
            text,
            "a network",
            "write an address with a prefix length: 10.0.0.0/8",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (text, expected) in [
            ("10.0.0.1:80", Ok("10.0.0.1:80")),
            ("[fd00::1]:80", Ok("[fd00::1]:80")),
            ("App.Internal:80", Ok("app.internal:80")),
            ("localhost:1", Ok("localhost:1")),
            ("app:0", Err("an endpoint has a port from 1 to 65535")),
            ("app:http", Err("an endpoint has a port from 1 to 65535")),
            (
                "-a.example:80",
                Err("the parts of a name have 1 to 63 letters, digits, '_' or inner '-'"),
            ),
            ("http://app:80", Err("write it without http://: \"app:80\"")),
            (
                "fd00::1:80",
                Err("IPv6 addresses stand in brackets: \"[fd00::1]:80\""),
            ),
            ("10.0.0.1", Err("a port is missing: \"10.0.0.1:PORT\"")),
            ("10.0.0:80", Err("write an IP address with a port: 10.0.0.1:3000")),
            ("app", Err("write an IP address with a port: 10.0.0.1:3000")),
        ] {
            let place = endpoint_place(text);
            let shown = place.as_ref().map(ToString::to_string);
            let shown = shown.as_deref().map_err(|error| error.hint.as_str());
            assert_eq!(shown, expected, "{text}");
        }
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            (":8080", "0.0.0.0:8080"),
            ("*:80", "0.0.0.0:80"),
            ("127.0.0.1:3000", "127.0.0.1:3000"),
            ("[::1]:80", "[::1]:80"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert_eq!(
                listen_address(text).map(|address| address.to_string()),
                Ok(expected.to_owned())
            );
        }
        for (text, hint) in [
            ("8080", "did you mean \":8080\"?"),
            ("::1:80", "IPv6 addresses stand in brackets: \"[::1]:80\""),
            ("fd00::1", "a port is missing: \"[fd00::1]:PORT\""),
            ("[::1]", "a port is missing: \"[::1]:PORT\""),
            ("1.2.3.4", "a port is missing: \"1.2.3.4:PORT\""),
            ("localhost:80", "did you mean \"127.0.0.1:80\"?"),
            ("a.example:80", "no name can stand here: write an IP address"),
            ("http://1.2.3.4:80", "write it without http://: \"1.2.3.4:80\""),
            ("é", "write \":8080\", \"127.0.0.1:8080\" or \"[::1]:8080\""),
            (":+80", "write \":8080\", \"127.0.0.1:8080\" or \"[::1]:8080\""),
            (":65536", "write \":8080\", \"127.0.0.1:8080\" or \"[::1]:8080\""),
        ] {
            assert_eq!(listen_address(text).unwrap_err().hint, hint, "{text}");
        }
        for (text, hint) in [
            (":3000", "did you mean \"127.0.0.1:3000\"?"),
            ("0.0.0.0:3000", "did you mean \"127.0.0.1:3000\"?"),
            ("10.0.0.1:0", "an endpoint has a port from 1 to 65535"),
            ("web", "write an IP address with a port: 10.0.0.1:3000"),
        ] {
            assert_eq!(endpoint_address(text).unwrap_err().hint, hint, "{text}");
        }
        assert!(endpoint_address("[fd00::1]:3000").is_ok());
    }

    #[test]
    fn networks() {
        assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert_eq!(
            network("10.1.0.0/8").unwrap_err().hint,
            "bits are set after the prefix: did you mean 10.0.0.0/8?"
        );
        assert!(network("10.0.0.0/33").is_err());
    }
}
