//! mTLS between sidecars: who we are, who may connect, who has to be there.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Pass, tls};
use crate::config::diagnostic::Diagnostic;
use crate::config::identity::NAMES;
use crate::config::place::{Place, Placed};
use crate::config::raw::RawConfig;
use crate::config::raw::mtls::{RawIdentity, RawInboundMtls, RawMtlsMode, RawOutboundMtls};
use crate::config::raw::tls::RawCertificate;
use crate::model::tls::AgentAddress;
use crate::model::{Identity, InboundMtls, MtlsMode, PeerName, Peers};

/// Who we are; none when nothing says it or it cannot be used, which is said.
pub fn identity(pass: &mut Pass, raw: &RawConfig) -> Option<Arc<Identity>> {
    let raw = raw.identity.as_ref()?;
    if raw.value.workload_api.is_some() {
        return None; // the agent says it
    }
    let [cert, key, ca] = files(pass, raw)?;
    let pair = Placed {
        value: RawCertificate {
            cert: cert.clone(),
            key,
        },
        place: raw.place,
    };
    // Both are read in any case: both may be wrong.
    let certificate = tls::certificate(pass, &pair);
    let trust = tls::bundle(
        pass,
        &Placed {
            place: ca.place,
            value: vec![ca],
        },
    );
    Identity::new(certificate?, trust?)
        .map_err(|error| {
            let message = format!("{}: {error}", cert.text());
            let hint = "it names one workload: a URI spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT";
            pass.say(Diagnostic::error(cert.place, message).hint(hint));
        })
        .ok()
        .map(Arc::new)
}

/// The agent that says who we are, if one is to be asked.
pub fn agent(pass: &mut Pass, raw: &RawConfig) -> Option<AgentAddress> {
    let raw = &raw.identity.as_ref()?.value;
    let text = raw.workload_api.as_ref()?;
    let files = [&raw.directory, &raw.cert, &raw.key, &raw.ca];
    if let Some(file) = files.into_iter().flatten().next() {
        pass.say(
            Diagnostic::error(
                file.place,
                "an identity comes from files or from an agent, not from both",
            )
            .hint("leave one of them out")
            .related(text.place, "the agent is here"),
        );
    }
    AgentAddress::parse(text.text())
        .map_err(|error| {
            let hint = "write it like unix:///run/spire/agent.sock";
            pass.say(Diagnostic::error(text.place, error.to_string()).hint(hint));
        })
        .ok()
}

/// The three files, each with the place that names it.
fn files(pass: &mut Pass, raw: &Placed<RawIdentity>) -> Option<[Placed<String>; 3]> {
    let RawIdentity {
        directory,
        cert,
        key,
        ca,
        workload_api: _,
    } = &raw.value;
    let mut missing = Vec::new();
    let mut one = |given: &Option<Placed<String>>, key: &'static str, name: &str| match (given, directory) {
        (Some(given), _) => Some(given.clone()),
        (None, Some(directory)) => Some(Placed {
            value: PathBuf::from(directory.text())
                .join(name)
                .to_string_lossy()
                .into_owned(),
            place: directory.place,
        }),
        (None, None) => {
            missing.push(key);
            None
        }
    };
    let [cert_name, key_name, ca_name] = NAMES;
    let found = (
        one(cert, "cert", cert_name),
        one(key, "key", key_name),
        one(ca, "ca", ca_name),
    );
    if !missing.is_empty() {
        let message = format!("identity has no {}", missing.join(", no "));
        let hint = "write directory: PATH, with tls.crt, tls.key and ca.crt in it, or cert, key and ca, or workload_api";
        pass.say(Diagnostic::error(raw.place, message).hint(hint));
    }
    match found {
        (Some(cert), Some(key), Some(ca)) => Some([cert, key, ca]),
        _ => None,
    }
}

/// What is asked of those who connect.
pub fn inbound(
    pass: &mut Pass,
    identity: &Known,
    raw: &Placed<RawInboundMtls>,
    conflict: Option<(Place, &str)>,
) -> Option<InboundMtls> {
    let mode = match raw.value.mode.value {
        RawMtlsMode::Off => None,
        RawMtlsMode::Permissive => Some(MtlsMode::Permissive),
        RawMtlsMode::Strict => Some(MtlsMode::Strict),
    };
    let peers = peers(pass, identity, raw.value.allow.as_ref());
    let ports = raw.value.plain_ports.iter().flatten();
    let plain_ports = ports
        .filter_map(|port| super::listener::port(pass, port))
        .collect();
    let mode = mode?;
    identity.wanted(pass, raw.place);
    if let Some((place, why)) = conflict {
        let said = Diagnostic::error(raw.place, format!("mtls makes no sense here: {why}"));
        pass.say(said.hint("leave it out").related(place, "because of this"));
    }
    Some(InboundMtls {
        mode,
        peers,
        plain_ports,
    })
}

/// Who has to be at a backend's endpoints.
pub fn outbound(
    pass: &mut Pass,
    identity: &Known,
    raw: &Placed<RawOutboundMtls>,
    tls: Option<Place>,
) -> Peers {
    identity.wanted(pass, raw.place);
    if let Some(tls) = tls {
        pass.say(
            Diagnostic::error(
                raw.place,
                "endpoints are spoken to by mTLS or by tls, not by both",
            )
            .hint("write tls for endpoints that end TLS themselves, mtls for those with a sidecar")
            .related(tls, "tls here"),
        );
    }
    peers(pass, identity, raw.value.peers.as_ref())
}

/// What is known of ourselves while the rest is read.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    raw: &'a RawConfig,
    identity: Option<&'a Identity>,
}

impl<'a> Known<'a> {
    /// With what was read.
    pub fn new(raw: &'a RawConfig, identity: Option<&'a Identity>) -> Self {
        Self { raw, identity }
    }

    /// Something needs an identity.
    fn wanted(&self, pass: &mut Pass, place: Place) {
        if self.raw.identity.is_none() {
            pass.say(
                Diagnostic::error(place, "mTLS needs an identity, and there is none")
                    .hint("write identity: {directory: PATH}, with tls.crt, tls.key and ca.crt in it"),
            );
        }
    }
}

fn peers(pass: &mut Pass, known: &Known, raw: Option<&Placed<Vec<Placed<String>>>>) -> Peers {
    let Some(raw) = raw else {
        return Peers::default();
    };
    if raw.value.is_empty() {
        let hint = "name them: spiffe://example.org/ns/shop/sa/web, /ns/shop/*, or /* for all of our own trust domain";
        pass.say(Diagnostic::error(raw.place, "a list of nobody lets nobody through").hint(hint));
    }
    let own = known.identity.map(|identity| identity.id.trust_domain());
    let names = raw.value.iter().filter_map(|text| {
        let name = PeerName::parse(text.text()).map_err(|error| {
            let hint = "write spiffe://example.org/ns/shop/sa/web, or /ns/shop/* for our own trust domain";
            pass.say(Diagnostic::error(text.place, error.to_string()).hint(hint));
        });
        let name = name.ok()?;
        if let (Some(named), Some(own)) = (name.trust_domain(), own)
            && named != own
        {
            let message = format!("nobody of the trust domain {named} is believed; our own is {own}");
            pass.error(text.place, message);
        }
        Some(name)
    });
    Peers(names.collect())
}
