//! How TLS handshakes of clients end. A connection whose handshake fails has no exchange, so these have codes of their
//! own: in the metric `tidegate_tls_handshakes_total`, in the debug log, in `docs/outcomes.md`.

macro_rules! ends {
    ($($(#[$doc:meta])* $variant:ident = $code:literal;)*) => {
        /// How a handshake ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum HandshakeEnd {
            $($(#[$doc])* $variant,)*
        }

        impl HandshakeEnd {
            /// All of them, in the order of their index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The short code, as it stands in log and metric.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// Its place in [`HandshakeEnd::ALL`], for tables.
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

ends! {
    /// A new session.
    Full = "full";
    /// A session that was taken up again.
    Resumed = "resumed";
    /// None: the listener passes TLS on unopened.
    PassedOn = "passed_on";

    /// The authority that signs certificates has asked whether the name is ours, and was answered (`acme-tls/1`).
    Challenge = "acme_challenge";

    /// The certificate for the name is got by Tidegate itself, and is not there yet.
    NotYet = "no_certificate_yet";
    /// No listener or certificate is there for the name that the client asked for.
    UnknownName = "unknown_name";
    /// Client and listener have no version, cipher suite, group or signature in common.
    NothingInCommon = "nothing_in_common";
    /// The client asked for application protocols, and none of them is spoken.
    NoAlpn = "no_alpn";
    /// The client showed no certificate where one is required.
    NoClientCertificate = "no_client_certificate";
    /// The client's certificate is not trusted, has expired, was taken back, or has none of the names that are allowed.
    BadClientCertificate = "bad_client_certificate";
    /// The client's first bytes are not TLS.
    NotTls = "not_tls";
    /// The client's bytes break the protocol.
    Malformed = "malformed";
    /// The client broke it off with an alert: most often because it does not trust the certificate.
    ClientAlert = "client_alert";
    /// The client went away.
    ClientGone = "client_gone";
    /// It was not over in time.
    TimedOut = "timed_out";
    /// As many were under way as may be.
    Overloaded = "overloaded";
}

impl HandshakeEnd {
    /// Whether there is a connection now.
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Full | Self::Resumed | Self::PassedOn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_indexes_fit() {
        let codes: BTreeSet<_> = HandshakeEnd::ALL.iter().map(|end| end.code()).collect();
        assert_eq!(codes.len(), HandshakeEnd::ALL.len());
        for (index, end) in HandshakeEnd::ALL.iter().enumerate() {
            assert_eq!(end.index(), index);
        }
    }
}
