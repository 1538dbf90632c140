//! TLS as YAML. Of certificates and keys only the paths are shown.

use super::yaml::{Fields, Yaml};
use super::{list, text, word};
use crate::model::tls::{ClientAuthMode, Origin, Roots, TlsVersion, TrustBundle};
use crate::model::{Certificate, ClientAuth, ListenerTls, ManagedName, UpstreamTls};

pub(super) fn listener(tls: &ListenerTls) -> Yaml {
    Fields::default()
        .with("certificates", list(&tls.certificates, |one| certificate(one)))
        .maybe("acme", (!tls.managed.is_empty()).then(|| managed(&tls.managed)))
        .with("min_version", version(tls.versions.lowest()))
        .with("max_version", version(tls.versions.highest()))
        .with("strict_sni", word(tls.strict_sni))
        .maybe("client_auth", tls.client_auth.as_deref().map(client_auth))
        .yaml()
}

fn managed(names: &[ManagedName]) -> Yaml {
    let names = list(names, |name| text(name.to_string()));
    Fields::default().with("names", names).yaml()
}

pub(super) fn upstream(tls: &UpstreamTls) -> Yaml {
    let ca = match &tls.roots {
        Roots::System => None,
        Roots::Bundle(bundle) => Some(paths(bundle)),
    };
    let names = (!tls.names.is_empty()).then(|| list(&tls.names, |name| text(name.to_string())));
    Fields::default()
        .with("hostname", text(tls.hostname.to_str()))
        .maybe("ca", ca)
        .maybe("subject_alt_names", names)
        .maybe("certificate", tls.certificate.as_deref().map(certificate))
        .with("min_version", version(tls.versions.lowest()))
        .with("max_version", version(tls.versions.highest()))
        .yaml()
}

pub(super) fn certificate(certificate: &Certificate) -> Yaml {
    match &certificate.origin {
        Origin::Files { certificate, key } => Fields::default()
            .with("cert", super::path_text(certificate))
            .with("key", super::path_text(key))
            .yaml(),
        // Not from a file.
        Origin::Named(name) => text(name),
    }
}

pub(super) fn version(version: TlsVersion) -> Yaml {
    text(version.text())
}

/// The paths of a bundle: its origin has one on each line.
pub(super) fn paths(bundle: &TrustBundle) -> Yaml {
    Yaml::List(bundle.origin.lines().map(text).collect())
}

fn client_auth(auth: &ClientAuth) -> Yaml {
    let mode = match auth.mode {
        ClientAuthMode::Required => "required",
        ClientAuthMode::Optional => "optional",
        ClientAuthMode::Unverified => "unverified",
    };
    Fields::default()
        .with("mode", word(mode))
        .with("ca", paths(&auth.trust))
        .with("crl", list(&auth.crl_origins, |path| text(path)))
        .with("allow", list(&auth.allow, |name| text(name.to_string())))
        .yaml()
}
