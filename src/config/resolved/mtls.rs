//! mTLS between sidecars as YAML. Of certificate and key only the paths are shown.

use super::yaml::{Fields, Yaml};
use super::{list, path_text, text, word};
use crate::model::tls::{AgentAddress, Origin};
use crate::model::{Identity, InboundMtls, Peers};

pub(super) fn identity(identity: &Identity) -> Yaml {
    let fields = match &identity.certificate.origin {
        Origin::Files { certificate, key } => Fields::default()
            .with("cert", path_text(certificate))
            .with("key", path_text(key)),
        // Not from a file.
        Origin::Named(name) => Fields::default().with("cert", text(name)),
    };
    fields.with("ca", text(&identity.trust.origin)).yaml()
}

pub(super) fn agent(agent: &AgentAddress) -> Yaml {
    Fields::default()
        .with("workload_api", text(agent.to_string()))
        .yaml()
}

pub(super) fn inbound(mtls: &InboundMtls) -> Yaml {
    Fields::default()
        .with("mode", word(mtls.mode.word()))
        .with("allow", peers(&mtls.peers))
        .with("plain_ports", list(&mtls.plain_ports, |port| word(*port)))
        .yaml()
}

pub(super) fn outbound(who: &Peers) -> Yaml {
    Fields::default().with("peers", peers(who)).yaml()
}

fn peers(peers: &Peers) -> Yaml {
    list(&peers.0, |name| text(name.to_string()))
}
