//! Which `Host` fields are believed.
//!
//! A listener on a loopback address is meant for this machine alone. A browser on this machine would
//! still carry a foreign page's requests to it once that page's name is made to resolve to 127.0.0.1 ("DNS
//! rebinding"); such requests bear the foreign name, and are refused. On other addresses any name
//! may be right.

use std::net::IpAddr;

/// Whether an authority (`host`, `host:port`, `[v6]:port`) names this machine's loopback.
pub(super) fn is_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<http::uri::Authority>() else {
        return false;
    };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(host).parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    // RFC 6761 §6.3: browsers resolve names below `localhost` to loopback themselves.
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine() {
        for (authority, expected) in [
            ("localhost", true),
            ("LOCALHOST:9900", true),
            ("localhost.:9900", true),
            ("tidegate.localhost", true),
            ("127.0.0.1", true),
            ("127.8.8.8:1", true),
            ("[::1]:9900", true),
            ("[::ffff:127.0.0.1]", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("evillocalhost", false),
            ("10.0.0.1", false),
            ("[::2]", false),
            ("user@evil.example", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(is_loopback(authority), expected, "{authority:?}");
        }
    }
}
