//! Where the agent is that gives workloads on this host their identities: SPIFFE's Workload Endpoint (§4).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The variable of the environment that says it where nothing else does.
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The agent's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentAddress {
    /// A socket of this host, by its absolute path.
    Unix(PathBuf),
    /// An address on which the agent knows by other means who asks; of the loopback interface, most often.
    Tcp(SocketAddr),
}

/// Why a text is no such address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address of an agent: {reason}")]
pub struct AgentAddressError {
    text: String,
    reason: &'static str,
}

impl AgentAddress {
    /// Reads `unix:///run/spire/agent.sock`, `unix:/run/spire/agent.sock` or `tcp://127.0.0.1:8081`.
    ///
    /// # Errors
    /// What keeps it from being one.
    pub fn parse(text: &str) -> Result<Self, AgentAddressError> {
        let fail = |reason| AgentAddressError {
            text: text.to_owned(),
            reason,
        };
        if text.contains(['?', '#']) {
            return Err(fail("it has neither a query nor a fragment"));
        }
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            return match path.strip_prefix('/') {
                Some("") => Err(fail("it has no path")),
                Some(_) => Ok(Self::Unix(PathBuf::from(path))),
                None => Err(fail("its path is absolute, like unix:///run/spire/agent.sock")),
            };
        }
        let Some(rest) = text.strip_prefix("tcp://") else {
            return Err(fail("it begins with unix:/ or tcp://"));
        };
        let address = rest.parse();
        let address =
            address.map_err(|_| fail("after tcp:// stands an IP address with a port, and nothing else"))?;
        Ok(Self::Tcp(address))
    }

    /// What the environment says; none: it says nothing.
    ///
    /// # Errors
    /// What keeps what it says from being an address.
    pub fn of_environment() -> Option<Result<Self, AgentAddressError>> {
        let text = std::env::var(ENDPOINT_VARIABLE).ok()?;
        Some(text.as_str())
            .filter(|text| !text.is_empty())
            .map(Self::parse)
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::Tcp(address) => write!(formatter, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_standard() {
        for (text, shown) in [
            ("unix:///run/a.sock", "unix:///run/a.sock"),
            ("unix:/run/a.sock", "unix:///run/a.sock"),
            ("tcp://127.0.0.1:8000", "tcp://127.0.0.1:8000"),
            ("tcp://[::1]:8000", "tcp://[::1]:8000"),
        ] {
            let address = AgentAddress::parse(text).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(AgentAddress::parse(shown), Ok(address));
        }
        for (text, reason) in [
            ("/run/a.sock", "begins with unix:/ or tcp://"),
            ("unix:///", "has no path"),
            ("unix:run/a.sock", "its path is absolute"),
            ("unix://host/a.sock", "its path is absolute"),
            ("unix:///a?b", "neither a query nor a fragment"),
            ("tcp://localhost:1", "an IP address with a port"),
            ("tcp://127.0.0.1", "an IP address with a port"),
            ("tcp://127.0.0.1:8000/foo", "an IP address with a port"),
        ] {
            let error = AgentAddress::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
