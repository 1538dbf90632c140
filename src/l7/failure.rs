//! Failures: who failed, what the client is told, whether another endpoint may be asked. The one table of statuses.

use http::StatusCode;

use super::headers::HeaderRefusal;
use super::path::PathRefusal;
use super::refusal::Refusal;
use crate::telemetry::Outcome;
use crate::upstream::ConnectError;

/// Why an exchange has no response from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The client's framing was refused before it was parsed.
    Framing(Refusal),
    /// The client's fields are refused.
    Headers(HeaderRefusal),
    /// The client's path is refused.
    Path(PathRefusal),
    /// The client's request has more fields than allowed.
    TooManyFields,
    /// CONNECT and TRACE are not served.
    Method,
    /// The client's body stopped for too long.
    ClientStalled,
    /// The client's body broke off or broke the framing.
    ClientBody,
    /// The client's connection is not for the request's host.
    Misdirected,
    /// Nothing is configured for the request.
    NoRoute,
    /// The rule's reference to a backend is wrong, or the rule has none.
    BadReference,

    /// The backend has no endpoint that takes requests.
    NoEndpoint,
    /// Every endpoint is at its bound, and the queue's time ran out.
    Overloaded,
    /// The backend is near its limit, and other requests matter more.
    Shed,
    /// The backend is to be reached by mTLS, and it is not known who we are.
    NoIdentity,
    /// The endpoint refused the connection.
    ConnectRefused,
    /// The connection was not made in time.
    ConnectTimeout,
    /// The connection could not be made.
    ConnectFailed,
    /// There is no TLS with the endpoint.
    ConnectTls,
    /// The endpoint's certificate is not trusted, or not for the name.
    ConnectUntrusted,
    /// The connection ended before the response's head.
    Reset,
    /// The response breaks the protocol.
    Protocol,
    /// The endpoint does not do the upgrade in a way that can be passed on.
    Upgrade,
    /// The attempt's deadline passed.
    TryTimeout,
    /// The request's deadline passed.
    RequestTimeout,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client's.
    Client,
    /// The configuration's, or nobody's.
    Proxy,
    /// The endpoint's: counted against it.
    Endpoint,
}

impl Failure {
    /// The outcome, the status and whose fault it is.
    const fn table(self) -> (Outcome, StatusCode, Blame) {
        use Blame::{Client, Endpoint, Proxy};
        match self {
            Self::Framing(Refusal::Malformed) => (Outcome::BadRequest, StatusCode::BAD_REQUEST, Client),
            Self::Framing(Refusal::TooLarge) => (
                Outcome::HeadTooLarge,
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Client,
            ),
            Self::Framing(Refusal::TargetTooLong) => {
                (Outcome::TargetTooLong, StatusCode::URI_TOO_LONG, Client)
            }
            Self::Framing(Refusal::UnsupportedCoding) => {
                (Outcome::Unsupported, StatusCode::NOT_IMPLEMENTED, Client)
            }
            Self::Framing(Refusal::TooSlow) => (Outcome::HeadTimeout, StatusCode::REQUEST_TIMEOUT, Client),
            Self::Headers(HeaderRefusal::Expect) => {
                (Outcome::ExpectationFailed, StatusCode::EXPECTATION_FAILED, Client)
            }
            Self::Headers(HeaderRefusal::Loop) => (Outcome::Loop, StatusCode::LOOP_DETECTED, Proxy),
            Self::Headers(
                HeaderRefusal::Host
                | HeaderRefusal::Connection
                | HeaderRefusal::Alias
                | HeaderRefusal::Length,
            ) => (Outcome::BadRequest, StatusCode::BAD_REQUEST, Client),
            Self::Path(PathRefusal::NotAbsolute | PathRefusal::Ambiguous | PathRefusal::AboveRoot) => {
                (Outcome::BadRequest, StatusCode::BAD_REQUEST, Client)
            }
            Self::TooManyFields => (
                Outcome::HeadTooLarge,
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Client,
            ),
            Self::Method => (Outcome::MethodRefused, StatusCode::METHOD_NOT_ALLOWED, Client),
            Self::ClientStalled => (Outcome::ClientStalled, StatusCode::REQUEST_TIMEOUT, Client),
            Self::ClientBody => (Outcome::ClientBody, StatusCode::BAD_REQUEST, Client),
            Self::Misdirected => (Outcome::Misdirected, StatusCode::MISDIRECTED_REQUEST, Client),
            Self::NoRoute => (Outcome::NoRoute, StatusCode::NOT_FOUND, Proxy),
            Self::BadReference => (Outcome::BadReference, StatusCode::INTERNAL_SERVER_ERROR, Proxy),
            Self::NoEndpoint => (Outcome::NoEndpoint, StatusCode::SERVICE_UNAVAILABLE, Proxy),
            Self::Overloaded => (Outcome::Overloaded, StatusCode::SERVICE_UNAVAILABLE, Proxy),
            Self::Shed => (Outcome::Shed, StatusCode::SERVICE_UNAVAILABLE, Proxy),
            Self::NoIdentity => (Outcome::NoIdentity, StatusCode::SERVICE_UNAVAILABLE, Proxy),
            Self::ConnectRefused => (Outcome::ConnectRefused, StatusCode::BAD_GATEWAY, Endpoint),
            Self::ConnectTimeout => (Outcome::ConnectTimeout, StatusCode::GATEWAY_TIMEOUT, Endpoint),
            Self::ConnectFailed => (Outcome::ConnectFailed, StatusCode::BAD_GATEWAY, Endpoint),
            Self::ConnectTls => (Outcome::ConnectTls, StatusCode::BAD_GATEWAY, Endpoint),
            Self::ConnectUntrusted => (Outcome::ConnectUntrusted, StatusCode::BAD_GATEWAY, Endpoint),
            Self::Reset => (Outcome::UpstreamReset, StatusCode::BAD_GATEWAY, Endpoint),
            Self::Protocol => (Outcome::UpstreamProtocol, StatusCode::BAD_GATEWAY, Endpoint),
            Self::Upgrade => (Outcome::UpgradeFailed, StatusCode::BAD_GATEWAY, Proxy),
            Self::TryTimeout => (Outcome::TryTimeout, StatusCode::GATEWAY_TIMEOUT, Endpoint),
            Self::RequestTimeout => (Outcome::RequestTimeout, StatusCode::GATEWAY_TIMEOUT, Endpoint),
        }
    }

    /// The code under which it is recorded.
    pub const fn outcome(self) -> Outcome {
        self.table().0
    }

    /// What the client gets.
    pub const fn status(self) -> StatusCode {
        self.table().1
    }

    /// Whose fault it is.
    pub const fn blame(self) -> Blame {
        self.table().2
    }

    /// Whether the client's connection must end: where its next request starts is not known, or others may think that
    /// it starts elsewhere.
    pub const fn ends_connection(self) -> bool {
        matches!(
            self,
            Self::Framing(_)
                | Self::ClientStalled
                | Self::ClientBody
                | Self::Method
                | Self::Misdirected
                | Self::Headers(
                    HeaderRefusal::Length
                        | HeaderRefusal::Alias
                        | HeaderRefusal::Connection
                        | HeaderRefusal::Host
                )
        )
    }
}

impl From<&ConnectError> for Failure {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::Refused => Self::ConnectRefused,
            ConnectError::TimedOut => Self::ConnectTimeout,
            ConnectError::AtLimit => Self::Overloaded,
            ConnectError::NoIdentity => Self::NoIdentity,
            ConnectError::Handshake(_) => Self::Reset,
            ConnectError::Untrusted(_) => Self::ConnectUntrusted,
            ConnectError::Tls(_) => Self::ConnectTls,
            ConnectError::Failed(_) => Self::ConnectFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_whose_fault_it_is() {
        for (failure, status, code) in [
            (Failure::Framing(Refusal::Malformed), 400, "bad_request"),
            (Failure::Framing(Refusal::TooSlow), 408, "head_timeout"),
            (Failure::NoRoute, 404, "no_route"),
            (Failure::BadReference, 500, "bad_reference"),
            (Failure::NoEndpoint, 503, "no_endpoint"),
            (Failure::Shed, 503, "shed"),
            (Failure::ConnectRefused, 502, "connect_refused"),
            (Failure::RequestTimeout, 504, "request_timeout"),
        ] {
            assert_eq!(
                (failure.status().as_u16(), failure.outcome().code()),
                (status, code)
            );
            let client = failure.status().is_client_error();
            assert_eq!(
                client,
                failure.blame() == Blame::Client || failure == Failure::NoRoute,
                "{failure:?}"
            );
        }
    }
}
