//! Hashes that every process agrees on: of requests' keys, and of endpoints.
//!
//! Proxies that stand side by side, and one that was restarted or replaced by a later version, must send a key to
//! the same endpoint. So the hash is written down here: FNV-1a over the bytes (Fowler, Noll, Vo), then the finaliser
//! of SplitMix64 (Steele, Lea, Flood 2014), which makes every bit depend on every other. It does not resist someone who
//! looks for collisions; such a one could as well send one key all the time.

use std::net::{IpAddr, SocketAddr};

/// The hash of a key.
pub fn hash_of(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    mix(hash)
}

/// The hash of an address; an IPv4 address within IPv6 is itself.
pub fn hash_of_ip(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => hash_of(&address.octets()),
        IpAddr::V6(address) => hash_of(&address.octets()),
    }
}

/// What a cookie says of an endpoint: the same in every process, another one in every backend. Not an address in
/// clear, but not a secret either: who knows the backend's name can try all addresses.
pub fn tag_of(backend: &str, endpoint: SocketAddr) -> u64 {
    mix(hash_of(backend.as_bytes()) ^ hash_of_endpoint(endpoint).rotate_left(32))
}

/// The hash of an endpoint's address and port.
pub(super) fn hash_of_endpoint(endpoint: SocketAddr) -> u64 {
    mix(hash_of_ip(endpoint.ip()) ^ u64::from(endpoint.port()))
}

/// Mixes the bits of a number; each number has one that it is mixed to.
pub(super) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_yesterday() {
        // What other versions and processes say: these numbers must not change.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "SplitMix64's first number from 0");
        assert_eq!(hash_of(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(hash_of(b"a"), mix(0xaf63_dc4c_8601_ec8c), "FNV-1a's own table");
        assert_eq!(hash_of(b"foobar"), mix(0x8594_4171_f739_67e8));
    }

    #[test]
    fn an_address_is_the_same_in_either_family() {
        let v4: IpAddr = "10.1.2.3".parse().unwrap();
        let v6: IpAddr = "::ffff:10.1.2.3".parse().unwrap();
        assert_eq!(hash_of_ip(v4), hash_of_ip(v6));
    }

    #[test]
    fn tags_differ_by_backend_address_and_port() {
        let one: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let other: SocketAddr = "10.0.0.1:81".parse().unwrap();
        assert_ne!(tag_of("a", one), tag_of("a", other));
        assert_ne!(tag_of("a", one), tag_of("b", one));
        assert_eq!(tag_of("a", one), tag_of("a", one));
    }
}
