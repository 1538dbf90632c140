//! The account at an authority as YAML. Of its key only the path is shown.

use super::yaml::{Fields, Yaml};
use super::{list, path_text, text, time, tls, word};
use crate::model::acme::{Acme, AcmeStore, ChallengeKind, DnsHook, ExternalAccount};
use crate::model::tls::Roots;

pub(super) fn acme(acme: &Acme) -> Yaml {
    let ca = match &acme.tls.roots {
        Roots::System => None,
        Roots::Bundle(bundle) => Some(tls::paths(bundle)),
    };
    let hook_of = match &acme.challenge {
        ChallengeKind::Dns(one) => Some(hook(one)),
        ChallengeKind::Http | ChallengeKind::TlsAlpn => None,
    };
    let (directory, secrets) = match &acme.store {
        AcmeStore::Directory(path) => (Some(path_text(path)), None),
        AcmeStore::Secrets { namespace } => {
            let namespace = namespace.as_deref().map(text);
            (None, Some(Fields::default().maybe("namespace", namespace).yaml()))
        }
    };
    Fields::default()
        .with("directory", text(acme.directory.as_str()))
        .with("terms_agreed", word(true))
        .with("contact", list(&acme.contact, |address| text(address)))
        .maybe("store", directory)
        .maybe("secrets", secrets)
        .maybe("ca", ca)
        .with("challenge", word(acme.challenge.text()))
        .maybe("dns_hook", hook_of)
        .maybe("external_account", acme.external_account.as_ref().map(external))
        .yaml()
}

fn hook(hook: &DnsHook) -> Yaml {
    let arguments = hook.arguments.iter().map(text);
    let command = std::iter::once(path_text(&hook.program)).chain(arguments);
    Fields::default()
        .with("command", Yaml::List(command.collect()))
        .with("timeout", time(hook.timeout))
        .with("settle", time(hook.settle))
        .yaml()
}

fn external(account: &ExternalAccount) -> Yaml {
    Fields::default()
        .with("key_id", text(&account.key_id))
        .with("key_file", path_text(&account.key_file))
        .yaml()
}
