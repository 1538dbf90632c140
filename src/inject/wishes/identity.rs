//! Wishes about who a sidecar is, and what it asks of those who connect to the app.

use super::{is_label, is_word, parts, port};

/// The socket of SPIRE's agent, as SPIFFE's CSI driver is documented to mount it.
const SOCKET: &str = "spire-agent.sock";

/// Where a sidecar gets its identity from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// An agent by SPIFFE's Workload API, whose socket SPIFFE's CSI driver brings; the socket's name.
    WorkloadApi(String),
    /// A Secret of the Pod's namespace with `tls.crt`, `tls.key` and `ca.crt`.
    Secret(String),
    /// A volume that the Pod has, with the same files.
    Volume(String),
}

/// What is asked of those who connect to the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtls {
    /// Nobody is asked.
    Off,
    /// Clear text is taken too.
    Permissive,
    /// Only mTLS is taken.
    Strict,
}

/// Ports on which nobody is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlainPorts {
    /// Those that are named.
    pub ports: Vec<u16>,
    /// Those that the Pod's own probes ask, where clear text would not be taken otherwise.
    pub probes: bool,
}

impl Mtls {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        }
    }
}

/// Reads an identity; none: `none`, where a namespace says another.
pub(super) fn identity(text: &str) -> Result<Option<Identity>, String> {
    let usage = || {
        format!(
            "{text:?} is no identity; write workload-api (or workload-api:agent.sock, if the socket is called so), secret:NAME, volume:NAME or none"
        )
    };
    let name = |name: &str, what: &str, fits: bool| match fits {
        true => Ok(name.to_owned()),
        false => Err(format!("{name:?} is no name of a {what}")),
    };
    Ok(match text.split_once(':').unwrap_or((text, "")) {
        ("none", "") if !text.ends_with(':') => None,
        ("workload-api", "") if !text.ends_with(':') => Some(Identity::WorkloadApi(SOCKET.to_owned())),
        ("workload-api", file) => Some(Identity::WorkloadApi(name(file, "socket", is_file(file))?)),
        ("secret", secret) => Some(Identity::Secret(name(secret, "Secret", is_subdomain(secret))?)),
        ("volume", volume) => Some(Identity::Volume(name(volume, "volume", is_label(volume))?)),
        _ => return Err(usage()),
    })
}

/// Reads what is asked of those who connect.
pub(super) fn mtls(text: &str) -> Result<Mtls, String> {
    [Mtls::Off, Mtls::Permissive, Mtls::Strict]
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or_else(|| format!("{text:?} is no mode; write strict, permissive or off"))
}

/// Reads ports, and the word for those of probes.
pub(super) fn plain_ports(text: &str) -> Result<PlainPorts, String> {
    let mut read = PlainPorts::default();
    for part in parts(text) {
        match part {
            "probes" => read.probes = true,
            part => read.ports.push(
                port(part)
                    .map_err(|error| format!("{error}; probes stands for those of the Pod's probes"))?,
            ),
        }
    }
    Ok(read)
}

/// A name of a Secret (RFC 1123, a subdomain).
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_word)
}

/// A name of a file, of characters that mean nothing in a path, an address or a container's arguments.
fn is_file(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(fits) && text != "." && text != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read() {
        let agent = |file: &str| Ok(Some(Identity::WorkloadApi(file.to_owned())));
        for (text, expected) in [
            ("none", Ok(None)),
            ("workload-api", agent("spire-agent.sock")),
            ("workload-api:agent.sock", agent("agent.sock")),
            ("secret:web.tls", Ok(Some(Identity::Secret("web.tls".to_owned())))),
            ("volume:spiffe", Ok(Some(Identity::Volume("spiffe".to_owned())))),
        ] {
            assert_eq!(identity(text), expected, "{text}");
        }
        for (text, part) in [
            ("", "is no identity; write workload-api"),
            ("csi", "is no identity"),
            ("none:", "is no identity"),
            ("unix:///run/agent.sock", "is no identity"),
            ("workload-api:", "\"\" is no name of a socket"),
            ("workload-api:../agent.sock", "is no name of a socket"),
            ("workload-api:..", "is no name of a socket"),
            ("workload-api:$(HOME)", "is no name of a socket"),
            ("secret:", "\"\" is no name of a Secret"),
            ("secret:Web", "is no name of a Secret"),
            ("secret:a..b", "is no name of a Secret"),
            ("volume:a.b", "is no name of a volume"),
        ] {
            let said = identity(text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }

    #[test]
    fn modes_and_ports_are_read() {
        assert_eq!(mtls("strict"), Ok(Mtls::Strict));
        assert_eq!(mtls("permissive"), Ok(Mtls::Permissive));
        assert_eq!(mtls("off"), Ok(Mtls::Off));
        assert!(
            mtls("true")
                .unwrap_err()
                .contains("write strict, permissive or off")
        );
        let read = plain_ports("9090, probes,").unwrap();
        assert_eq!((read.ports, read.probes), (vec![9090], true));
        assert_eq!(plain_ports(""), Ok(PlainPorts::default()));
        for text in ["0", "probe", "65536"] {
            assert!(plain_ports(text).unwrap_err().contains("is no port"), "{text}");
        }
    }
}
