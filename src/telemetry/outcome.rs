//! The outcome: why an exchange ended. Exactly one code per exchange, the same in the access log,
//! the metrics and the `Proxy-Status` field (RFC 9209) of a response that Tidegate made itself.

macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $proxy_status:literal;)*) => {
        /// Why an exchange ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Outcome {
            $($(#[$doc])* $variant,)*
        }

        impl Outcome {
            /// All of them, in the order of their index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The short code, as it stands in log, metric and response field.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The `Proxy-Status` field of a response that Tidegate made, with the error types of RFC 9209 §2.3.
            pub const fn proxy_status(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("tidegate; error=", $proxy_status, "; details=\"", $code, "\""),)*
                }
            }

            /// Its place in [`Outcome::ALL`], for tables.
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

outcomes! {
    /// An endpoint answered and the client got all of it.
    Answered = "answered", "proxy_internal_response";
    /// A filter answered: a direct response.
    Direct = "direct", "proxy_internal_response";
    /// A filter answered: a redirection.
    Redirected = "redirected", "proxy_internal_response";
    /// The connection was upgraded and ended in good order.
    Upgraded = "upgraded", "proxy_internal_response";

    /// The relayed connection has ended, both ways in good order.
    Relayed = "relayed", "proxy_internal_response";

    /// The client went away before it had all of the response, or broke a relayed connection off.
    ClientGone = "client_gone", "connection_terminated";
    /// The client's request body stopped for longer than allowed.
    ClientStalled = "client_stalled", "http_request_error";
    /// The client's request body broke off or broke the framing.
    ClientBody = "client_body", "http_request_error";
    /// The client's request head took longer than allowed.
    HeadTimeout = "head_timeout", "http_request_error";
    /// The client's request breaks the grammar or is ambiguous.
    BadRequest = "bad_request", "http_request_error";
    /// The request's head is too large or has too many fields.
    HeadTooLarge = "head_too_large", "http_request_error";
    /// The request's target is too long.
    TargetTooLong = "target_too_long", "http_request_error";
    /// The method is not served (CONNECT, TRACE).
    MethodRefused = "method_refused", "http_request_denied";
    /// The `Expect` field asks for something unknown.
    ExpectationFailed = "expectation_failed", "http_request_error";
    /// The HTTP version or transfer coding is not served.
    Unsupported = "unsupported", "http_request_error";
    /// The request has been through this proxy too often.
    Loop = "loop", "proxy_loop_detected";
    /// A connection to a listener of redirected connections that was not redirected, or was meant for the listener itself.
    RedirectLoop = "redirect_loop", "proxy_loop_detected";
    /// The client's connection is not for the request's host.
    Misdirected = "misdirected", "http_request_error";
    /// The connection comes from somewhere else than the networks whose PROXY protocol is believed.
    ProxyUntrusted = "proxy_untrusted", "http_request_denied";
    /// The connection does not begin with a good PROXY header.
    ProxyHeader = "proxy_header", "http_request_error";
    /// The PROXY header did not come in time.
    ProxyTimeout = "proxy_timeout", "http_request_error";
    /// The connection is in clear text, or is TLS of another kind, where only mTLS of sidecars is taken.
    MtlsPlain = "mtls_plain", "http_request_denied";
    /// The client's handshake was not over in time, or it said nothing at all.
    MtlsTimeout = "mtls_timeout", "http_request_error";
    /// The client's handshake broke off, or breaks the protocol.
    MtlsHandshake = "mtls_handshake", "http_request_error";
    /// The client showed no certificate.
    MtlsNoCertificate = "mtls_no_certificate", "http_request_denied";
    /// The client's certificate is not by whom the trust bundle names.
    MtlsUntrusted = "mtls_untrusted", "http_request_denied";
    /// The client's certificate has expired, or is not valid yet.
    MtlsExpired = "mtls_expired", "http_request_denied";
    /// The client's certificate names no workload.
    MtlsNoId = "mtls_no_id", "http_request_denied";
    /// The client is of another trust domain.
    MtlsTrustDomain = "mtls_trust_domain", "http_request_denied";
    /// The client is none of those that may connect.
    MtlsNotAllowed = "mtls_not_allowed", "http_request_denied";
    /// No listener, hostname or rule is for the request.
    NoRoute = "no_route", "destination_not_found";
    /// The rule's reference to a backend is wrong or not granted.
    BadReference = "bad_reference", "proxy_configuration_error";

    /// The backend has no endpoint that takes requests.
    NoEndpoint = "no_endpoint", "destination_unavailable";
    /// Every endpoint is at its bound and the queue's time ran out.
    Overloaded = "overloaded", "connection_limit_reached";
    /// The backend was near its limit, and other requests matter more.
    Shed = "shed", "connection_limit_reached";
    /// The backend is to be reached by mTLS, or a client connects by it, and it is not known who we are.
    NoIdentity = "no_identity", "proxy_configuration_error";
    /// The endpoint refused the connection.
    ConnectRefused = "connect_refused", "connection_refused";
    /// The connection was not made in time.
    ConnectTimeout = "connect_timeout", "connection_timeout";
    /// The connection could not be made for another reason.
    ConnectFailed = "connect_failed", "destination_ip_unroutable";
    /// There is no TLS with the endpoint: no version or protocol in common, or it broke off.
    ConnectTls = "connect_tls", "tls_protocol_error";
    /// The endpoint's certificate is not trusted, has expired, or is not for the name.
    ConnectUntrusted = "connect_untrusted", "tls_certificate_error";
    /// The endpoint closed or reset the connection before its response's head, or before a byte of its own.
    UpstreamReset = "upstream_reset", "connection_terminated";
    /// The endpoint's response breaks the protocol.
    UpstreamProtocol = "upstream_protocol", "http_protocol_error";
    /// The endpoint's response, or a relayed connection, broke off after its first part was passed on.
    UpstreamTruncated = "upstream_truncated", "http_response_incomplete";
    /// The endpoint's response body stopped for longer than allowed.
    UpstreamStalled = "upstream_stalled", "http_response_timeout";
    /// The endpoint's answer did not come within the request's deadline.
    RequestTimeout = "request_timeout", "http_response_timeout";
    /// The last attempt's answer did not come within the attempt's deadline.
    TryTimeout = "try_timeout", "http_response_timeout";
    /// The upgraded connection was silent for longer than allowed.
    UpgradeIdle = "upgrade_idle", "connection_read_timeout";
    /// The relayed connection, or the session of datagrams, was silent for longer than allowed.
    RelayIdle = "relay_idle", "connection_read_timeout";
    /// The endpoint did not agree to the upgrade in a way that can be passed on.
    UpgradeFailed = "upgrade_failed", "http_upgrade_failed";
    /// The proxy ended before the exchange did.
    Drained = "drained", "proxy_internal_error";
    /// A fault of the proxy itself.
    Internal = "internal", "proxy_internal_error";
}

impl Outcome {
    /// Whether the exchange failed through no fault of the client: an endpoint's, the
    /// configuration's or the proxy's. (An endpoint that answers 5xx has answered; that is seen from
    /// the status.)
    pub const fn is_failure(self) -> bool {
        match self {
            Self::Answered
            | Self::Direct
            | Self::Redirected
            | Self::Upgraded
            | Self::UpgradeIdle
            | Self::Relayed
            | Self::RelayIdle => false,
            Self::ClientGone
            | Self::ClientStalled
            | Self::ClientBody
            | Self::HeadTimeout
            | Self::BadRequest
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::MethodRefused
            | Self::ExpectationFailed
            | Self::Unsupported
            | Self::Loop
            | Self::RedirectLoop
            | Self::Misdirected
            | Self::ProxyUntrusted
            | Self::ProxyHeader
            | Self::ProxyTimeout
            | Self::MtlsPlain
            | Self::MtlsTimeout
            | Self::MtlsHandshake
            | Self::MtlsNoCertificate
            | Self::MtlsUntrusted
            | Self::MtlsExpired
            | Self::MtlsNoId
            | Self::MtlsTrustDomain
            | Self::MtlsNotAllowed
            | Self::NoRoute => false,
            Self::BadReference
            | Self::NoEndpoint
            | Self::Overloaded
            | Self::Shed
            | Self::NoIdentity
            | Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectFailed
            | Self::ConnectTls
            | Self::ConnectUntrusted
            | Self::UpstreamReset
            | Self::UpstreamProtocol
            | Self::UpstreamTruncated
            | Self::UpstreamStalled
            | Self::RequestTimeout
            | Self::TryTimeout
            | Self::UpgradeFailed
            | Self::Drained
            | Self::Internal => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_indexed() {
        let codes: std::collections::BTreeSet<_> =
            Outcome::ALL.iter().map(|outcome| outcome.code()).collect();
        assert_eq!(codes.len(), Outcome::ALL.len());
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome.index(), index);
        }
        assert_eq!(
            Outcome::NoEndpoint.proxy_status(),
            "tidegate; error=destination_unavailable; details=\"no_endpoint\""
        );
    }
}
