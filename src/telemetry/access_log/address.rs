//! Addresses as text, remembered: lines name the same few endpoints and the clients of kept connections again and again,
//! and to write four numbers costs more than to look an address up.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// Addresses remembered per writer of lines; each has one place, which the last one takes.
const PLACES: usize = 64;

/// Longest text: a bracketed IPv6 address of 39 characters, `:` and a port of 5.
const LONGEST: usize = 47;

/// Writes addresses.
#[derive(Debug)]
pub(super) struct Addresses {
    places: Box<[Place]>,
}

#[derive(Clone, Debug)]
struct Place {
    address: SocketAddr,
    text: [u8; LONGEST],
    length: u8,
    /// Where in the text the IP address is.
    ip: (u8, u8),
}

impl Addresses {
    pub(super) fn new() -> Self {
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            places: vec![Place::of(unspecified); PLACES].into_boxed_slice(),
        }
    }

    /// Appends address and port; an IPv6 address in brackets.
    pub(super) fn write(&mut self, address: SocketAddr, out: &mut Vec<u8>) {
        let place = self.place(address);
        out.extend_from_slice(&place.text[..usize::from(place.length)]);
    }

    /// Appends the IP address alone. An IPv4 address that a dual-stack socket shows as `::ffff:192.0.2.1` is written as
    /// what it is.
    pub(super) fn write_ip(&mut self, address: SocketAddr, out: &mut Vec<u8>) {
        let place = self.place(address);
        out.extend_from_slice(&place.text[usize::from(place.ip.0)..usize::from(place.ip.1)]);
    }

    fn place(&mut self, address: SocketAddr) -> &Place {
        let place = &mut self.places[index(address)];
        if place.address != address {
            *place = Place::of(address);
        }
        place
    }
}

fn index(address: SocketAddr) -> usize {
    let low = match address.ip() {
        IpAddr::V4(ip) => u32::from(ip) as usize,
        IpAddr::V6(ip) => u128::from(ip) as usize,
    };
    (low ^ (low >> 6) ^ usize::from(address.port()) ^ usize::from(address.port() >> 6)) % PLACES
}

impl Place {
    fn of(address: SocketAddr) -> Self {
        let mut text = [0; LONGEST];
        let mut rest = &mut text[..];
        let ip = address.ip().to_canonical();
        // The longest text fits, so writing cannot fail.
        let _ = match ip {
            IpAddr::V4(ip) => write!(rest, "{ip}"),
            IpAddr::V6(ip) => write!(rest, "[{ip}]"),
        };
        let end = LONGEST - rest.len();
        let _ = write!(rest, ":{}", address.port());
        let bracket = usize::from(ip.is_ipv6());
        let length = LONGEST - rest.len();
        Self {
            address,
            text,
            length: length as u8,
            ip: (bracket as u8, (end - bracket) as u8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_the_same_the_first_time_and_later() {
        let mut addresses = Addresses::new();
        let longest = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535";
        for _ in 0..2 {
            for (address, whole, ip) in [
                ("192.0.2.1:80", "192.0.2.1:80", "192.0.2.1"),
                ("0.0.0.0:0", "0.0.0.0:0", "0.0.0.0"),
                ("[::1]:8080", "[::1]:8080", "::1"),
                ("[::ffff:192.0.2.1]:80", "192.0.2.1:80", "192.0.2.1"),
                (longest, longest, &longest[1..longest.len() - 7]),
            ] {
                let (mut all, mut only) = (Vec::new(), Vec::new());
                addresses.write(address.parse().unwrap(), &mut all);
                addresses.write_ip(address.parse().unwrap(), &mut only);
                assert_eq!(String::from_utf8(all).unwrap(), whole);
                assert_eq!(String::from_utf8(only).unwrap(), ip);
            }
        }
        for port in 0..1000 {
            let address = SocketAddr::from(([10, 0, 0, 1], port));
            let mut text = Vec::new();
            addresses.write(address, &mut text);
            assert_eq!(text, address.to_string().as_bytes());
        }
    }
}
