//! Certificates by ACME: the account, and the names that listeners leave to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};

use super::{Pass, tls};
use crate::config::diagnostic::Diagnostic;
use crate::config::place::{Place, Placed};
use crate::config::raw::RawConfig;
use crate::config::raw::acme::{RawAcme, RawChallenge, RawDnsHook, RawExternalAccount, RawListenerAcme};
use crate::model::acme::{Acme, AcmeStore, ChallengeKind, DirectoryUrl, DnsHook, ExternalAccount, Pace};
use crate::model::tls::{Roots, TlsVersions, UpstreamTls};
use crate::model::{HostPattern, Listener, ManagedName};

/// The authority when none is named.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Names of a file; each has a certificate and an order of its own.
const MAX_NAMES: usize = 1000;
/// The longest that a hook may take, and a record to be seen.
const LONGEST: Duration = Duration::from_secs(600);

/// The account; none when there is none or it cannot be used, which is said.
pub fn acme(pass: &mut Pass, raw: Option<&Placed<RawAcme>>) -> Option<Arc<Acme>> {
    let Placed { value: raw, place } = raw?;
    if !raw.terms_agreed.value {
        pass.say(
            Diagnostic::error(
                raw.terms_agreed.place,
                "an authority gives certificates only to who agrees to its terms of service",
            )
            .hint("read them (the directory names them) and write terms_agreed: true, or remove acme"),
        );
    }
    let directory = match &raw.directory {
        None => DirectoryUrl::parse(LETS_ENCRYPT).ok(),
        Some(text) => DirectoryUrl::parse(text.text())
            .map_err(|error| {
                pass.say(
                    Diagnostic::error(text.place, error.to_string()).hint(format!("write {LETS_ENCRYPT}")),
                );
            })
            .ok(),
    };
    let contact = raw.contact.iter().flatten();
    let contact: Vec<_> = contact.filter_map(|text| mail(pass, text)).collect();
    let store = store(pass, raw, *place);
    let roots = match &raw.ca {
        Some(ca) => tls::bundle(pass, ca).map(Roots::Bundle),
        None => Some(Roots::System),
    };
    let challenge = challenge(pass, raw, *place);
    let external_account = match &raw.external_account {
        Some(raw) => Some(external(pass, raw)?),
        None => None,
    };
    let directory = directory?;
    let tls = UpstreamTls::new(directory.host(), roots?, Vec::new(), None, TlsVersions::default());
    let blamed = raw.ca.as_ref().map_or(*place, |ca| ca.place);
    let tls = tls.map_err(|error| pass.error(blamed, error.to_string())).ok()?;
    Some(Arc::new(Acme {
        directory,
        tls,
        contact,
        challenge: challenge?,
        store: store?,
        external_account,
        pace: Pace::default(),
    }))
}

/// The names that a listener leaves to ACME; those that cannot be got are left out, which is said.
pub fn names(
    pass: &mut Pass,
    acme: Option<&Placed<RawAcme>>,
    raw: &Placed<RawListenerAcme>,
    hostname: &HostPattern,
) -> Vec<ManagedName> {
    let Some(account) = acme else {
        pass.say(
            Diagnostic::error(
                raw.place,
                "names are left to ACME, and there is no account for it",
            )
            .hint("write one at the top: acme: {terms_agreed: true, store: ./acme}"),
        );
        return Vec::new();
    };
    if raw.value.names.value.is_empty() {
        pass.say(
            Diagnostic::error(raw.value.names.place, "there is no name")
                .hint("write one: names: [shop.example.com]"),
        );
    }
    let is_dns = account
        .value
        .challenge
        .as_ref()
        .is_some_and(|kind| kind.value == RawChallenge::Dns);
    let mut names: Vec<ManagedName> = Vec::new();
    for text in &raw.value.names.value {
        let name = match ManagedName::parse(text.text()) {
            Ok(name) => name,
            Err(error) => {
                pass.error(text.place, error.to_string());
                continue;
            }
        };
        if name.is_wildcard() && !is_dns {
            let place = account
                .value
                .challenge
                .as_ref()
                .map_or(account.place, |kind| kind.place);
            pass.say(
                Diagnostic::error(
                    text.place,
                    format!("\"{name}\" is a wildcard, which only dns-01 can show to be ours"),
                )
                .hint("write challenge: dns-01 with a dns_hook, or each name")
                .related(place, "the challenge here"),
            );
        } else if hostname.intersect(name.pattern()).is_none() {
            pass.error(
                text.place,
                format!("\"{name}\" is not among the hostnames of the listener (\"{hostname}\")"),
            );
        } else if names.contains(&name) {
            pass.error(text.place, format!("\"{name}\" is there twice"));
        } else {
            names.push(name);
        }
    }
    names
}

/// What account and listeners have to do with each other.
pub fn check(pass: &mut Pass, raw: &RawConfig, listeners: &[(Listener, Place)]) {
    let Some(account) = &raw.acme else { return };
    let wanted: usize = listeners
        .iter()
        .filter_map(|(listener, _)| Some(listener.tls.as_ref()?.managed.len()))
        .sum();
    if wanted > MAX_NAMES {
        pass.error(
            account.place,
            format!("{wanted} names are left to ACME; at most {MAX_NAMES} can be"),
        );
    }
    let by_http = account
        .value
        .challenge
        .as_ref()
        .is_none_or(|kind| kind.value == RawChallenge::Http);
    let is_clear = listeners.iter().any(|(listener, _)| listener.tls.is_none());
    // Where a cluster says what is served, names come from there.
    if pass.found.has_errors() || raw.manifests.is_some() || raw.has_settings_alone() {
        return;
    }
    if wanted == 0 {
        pass.say(
            Diagnostic::warning(account.place, "no listener leaves a name to ACME")
                .hint("write one at a listener: tls: {acme: {names: [shop.example.com]}}"),
        );
    } else if by_http && !is_clear {
        pass.say(
            Diagnostic::warning(
                account.place,
                "http-01 is asked for in clear text, and every listener has TLS",
            )
            .hint("add a listener at :80 without tls, or write challenge: tls-alpn-01"),
        );
    }
}

fn store(pass: &mut Pass, raw: &RawAcme, place: Place) -> Option<AcmeStore> {
    match (&raw.store, &raw.secrets) {
        (Some(path), Some(secrets)) => {
            pass.say(
                Diagnostic::error(
                    secrets.place,
                    "certificates are kept in one place, and store is one already",
                )
                .hint("remove store or secrets")
                .related(path.place, "the other here"),
            );
            None
        }
        (None, None) => {
            pass.say(
                Diagnostic::error(place, "where are account and certificates kept?").hint(
                    "write store: /var/lib/tidegate/acme, or secrets: {} with tidegate run --kubernetes",
                ),
            );
            None
        }
        (Some(path), None) if path.text().is_empty() => {
            pass.error(path.place, "store is an empty path");
            None
        }
        (Some(path), None) => Some(AcmeStore::Directory(pass.path_of(path.text()))),
        (None, Some(secrets)) => {
            let namespace = secrets.value.namespace.as_ref();
            if let Some(wrong) = namespace.filter(|name| !is_namespace(name.text())) {
                pass.say(
                    Diagnostic::error(wrong.place, format!("{:?} is not a namespace", wrong.text()))
                        .hint("a name has at most 63 lower-case letters, digits and hyphens between them"),
                );
                return None;
            }
            pass.wants_cluster.push(
                Diagnostic::error(
                    secrets.place,
                    "certificates are to be kept in Secrets of a cluster, and no cluster is followed",
                )
                .hint("run it with --kubernetes, or write store: /var/lib/tidegate/acme instead"),
            );
            Some(AcmeStore::Secrets {
                namespace: namespace.map(|name| name.text().into()),
            })
        }
    }
}

/// RFC 1123, as the API server has it.
fn is_namespace(text: &str) -> bool {
    let plain = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '-');
    (1..=63).contains(&text.len())
        && text.chars().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn mail(pass: &mut Pass, text: &Placed<String>) -> Option<String> {
    let address = text.text().strip_prefix("mailto:").unwrap_or(text.text());
    let plain = |letter: char| letter.is_ascii_graphic() && !matches!(letter, ',' | '?' | '<' | '>');
    let good = address
        .split_once('@')
        .is_some_and(|(user, host)| !user.is_empty() && host.contains('.') && !host.contains('@'));
    if good && address.chars().all(plain) {
        return Some(format!("mailto:{address}"));
    }
    pass.say(
        Diagnostic::error(text.place, format!("{:?} is not a mail address", text.text()))
            .hint("write ops@example.com"),
    );
    None
}

fn challenge(pass: &mut Pass, raw: &RawAcme, place: Place) -> Option<ChallengeKind> {
    let kind = raw
        .challenge
        .as_ref()
        .map_or(RawChallenge::Http, |kind| kind.value);
    match (kind, &raw.dns_hook) {
        (RawChallenge::Dns, Some(raw)) => hook(pass, &raw.value).map(ChallengeKind::Dns),
        (RawChallenge::Dns, None) => {
            let place = raw.challenge.as_ref().map_or(place, |kind| kind.place);
            pass.say(
                Diagnostic::error(place, "dns-01 needs a command that sets records")
                    .hint("write dns_hook: {command: [/usr/local/bin/set-record]}"),
            );
            None
        }
        (_, Some(hook)) => {
            pass.say(
                Diagnostic::error(
                    hook.place,
                    "dns_hook is for dns-01, and the challenge is another one",
                )
                .hint("write challenge: dns-01, or remove dns_hook"),
            );
            None
        }
        (RawChallenge::Http, None) => Some(ChallengeKind::Http),
        (RawChallenge::TlsAlpn, None) => Some(ChallengeKind::TlsAlpn),
    }
}

fn hook(pass: &mut Pass, raw: &RawDnsHook) -> Option<DnsHook> {
    let timeout = pass.duration(
        "timeout",
        raw.timeout.as_ref(),
        Duration::from_secs(60),
        Duration::from_millis(100)..=LONGEST,
    );
    let settle = pass.duration(
        "settle",
        raw.settle.as_ref(),
        Duration::from_secs(30),
        Duration::ZERO..=LONGEST,
    );
    let Some((program, arguments)) = raw.command.value.split_first() else {
        pass.error(raw.command.place, "there is no program");
        return None;
    };
    let path = PathBuf::from(program.text());
    if !path.is_absolute() {
        pass.say(
            Diagnostic::error(
                program.place,
                format!("{:?} is not an absolute path", program.text()),
            )
            .hint("no shell looks for it: write /usr/local/bin/set-record"),
        );
        return None;
    }
    Some(DnsHook {
        program: path,
        arguments: arguments.iter().map(|text| text.text().to_owned()).collect(),
        timeout,
        settle,
    })
}

fn external(pass: &mut Pass, raw: &RawExternalAccount) -> Option<ExternalAccount> {
    if raw.key_id.text().is_empty() {
        pass.error(raw.key_id.place, "key_id is empty");
    }
    let (key_file, text) = tls::file(pass, &raw.key_file)?;
    let text = text.trim_ascii();
    let bare = text
        .iter()
        .rposition(|byte| *byte != b'=')
        .map_or(0, |last| last + 1);
    let bare = &text[..bare];
    let key = BASE64URL_NOPAD
        .decode(bare)
        .or_else(|_| BASE64_NOPAD.decode(bare));
    match key {
        Ok(key) if !key.is_empty() => Some(ExternalAccount {
            key_id: raw.key_id.text().to_owned(),
            key_file,
            key: key.into(),
        }),
        _ => {
            let message = format!("{}: the key is not base64", raw.key_file.text());
            pass.say(
                Diagnostic::error(raw.key_file.place, message)
                    .hint("it is one line, as the authority gave it"),
            );
            None
        }
    }
}
