//! What is found on redirected connections when their first bytes are looked at: in the metric
//! `tidegate_detected_protocols_total`, in `docs/sidecar.md`.

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Detected {
    /// A request of HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A TLS handshake.
    Tls,
    /// Something else.
    Other,
    /// Nothing within the time for it: the server is the one that speaks first, or the client waits.
    Silent,
    /// Nobody looked: the port or the backend is said to be opaque.
    NotAsked,
    /// The client went away without a byte.
    Gone,
}

impl Detected {
    /// All of them, in the order of their index.
    pub const ALL: [Self; 7] = [
        Self::Http1,
        Self::Http2,
        Self::Tls,
        Self::Other,
        Self::Silent,
        Self::NotAsked,
        Self::Gone,
    ];

    /// The short code, as it stands in the metric.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Other => "other",
            Self::Silent => "silent",
            Self::NotAsked => "not_asked",
            Self::Gone => "gone",
        }
    }

    /// Its place in [`Detected::ALL`], for tables.
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_indexes_fit() {
        let codes: std::collections::BTreeSet<_> = Detected::ALL.iter().map(|found| found.code()).collect();
        assert_eq!(codes.len(), Detected::ALL.len());
        for (index, found) in Detected::ALL.iter().enumerate() {
            assert_eq!(found.index(), index);
        }
    }
}
