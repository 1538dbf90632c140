//! Writing a PROXY header.

use std::net::{IpAddr, SocketAddr};

use super::{Header, SIGNATURE, Version, types};

/// The bytes of a header. Version 1 has room for addresses only.
///
/// Parts that are too long for their place are left out: a name longer than 255 bytes (RFC 1035), a protocol or an id
/// longer than its bound.
pub fn write(version: Version, header: &Header) -> Vec<u8> {
    match version {
        Version::V1 => line(header.addresses).into_bytes(),
        Version::V2 => bytes(header),
    }
}

fn line(addresses: Option<(SocketAddr, SocketAddr)>) -> String {
    let Some((client, server)) = addresses else {
        return "PROXY UNKNOWN\r\n".to_owned();
    };
    let (from, to) = alike(client.ip(), server.ip());
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    format!(
        "PROXY {family} {from} {to} {} {}\r\n",
        client.port(),
        server.port()
    )
}

fn bytes(header: &Header) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    let (command, family) = match header.addresses {
        None => (0x20, 0x00),
        Some((client, server)) => {
            let family = match alike(client.ip(), server.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    body.extend(from.octets());
                    body.extend(to.octets());
                    0x11
                }
                (from, to) => {
                    body.extend(wide(from));
                    body.extend(wide(to));
                    0x21
                }
            };
            body.extend(client.port().to_be_bytes());
            body.extend(server.port().to_be_bytes());
            for (kind, value, most) in [
                (types::ALPN, header.alpn.as_deref(), 255),
                (
                    types::AUTHORITY,
                    header.authority.as_deref().map(str::as_bytes),
                    255,
                ),
                (types::UNIQUE_ID, header.unique_id.as_deref(), 128),
            ] {
                if let Some(value) = value.filter(|value| (1..=most).contains(&value.len())) {
                    body.push(kind);
                    body.extend((value.len() as u16).to_be_bytes());
                    body.extend(value);
                }
            }
            (0x21, family)
        }
    };
    let mut out = SIGNATURE.to_vec();
    out.extend([command, family]);
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    out
}

/// Two addresses of one family: IPv4 if both are, whatever clothes they wear.
fn alike(one: IpAddr, other: IpAddr) -> (IpAddr, IpAddr) {
    match (one.to_canonical(), other.to_canonical()) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.into(), other.into()),
        (one, other) => (wide_ip(one), wide_ip(other)),
    }
}

fn wide_ip(ip: IpAddr) -> IpAddr {
    IpAddr::from(wide(ip))
}

fn wide(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}
