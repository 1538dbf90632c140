//! TLS of listeners: certificate files are read and checked here, so that a pair that cannot be used is refused with
//! its place, by `check` and at a reload.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Pass, acme};
use crate::config::diagnostic::Diagnostic;
use crate::config::place::{Place, Placed};
use crate::config::raw::acme::RawAcme;
use crate::config::raw::text::TlsVersionText;
use crate::config::raw::tls::{
    RawCertificate, RawClientAuth, RawClientAuthMode, RawListenerTls, RawUpstreamTls,
};
use crate::config::{self};
use crate::model::tls::{
    ClientAuthMode, Origin, Part, Roots, SubjectName, TlsVersion, TlsVersions, TrustBundle, UpstreamTlsError,
    trust,
};
use crate::model::{Certificate, ClientAuth, HostPattern, ListenerTls, UpstreamTls};

/// The TLS of a listener; none when it cannot be used, which is said.
pub fn listener(
    pass: &mut Pass,
    acme: Option<&Placed<RawAcme>>,
    raw: &Placed<RawListenerTls>,
    hostname: &HostPattern,
) -> Option<ListenerTls> {
    let Placed { value: raw, place } = raw;
    let given = raw
        .certificates
        .as_ref()
        .map(|list| (list.place, list.value.as_slice()));
    let (place, given) = given.unwrap_or((*place, &[]));
    if given.is_empty() && raw.acme.is_none() {
        pass.say(
            Diagnostic::error(place, "TLS needs a certificate").hint(
                "write one: certificates: [{cert: tls.crt, key: tls.key}], or names that are left to ACME: acme: {names: [..]}",
            ),
        );
    }
    let certificates: Vec<_> = given.iter().filter_map(|raw| certificate(pass, raw)).collect();
    let managed = match &raw.acme {
        Some(raw) => acme::names(pass, acme, raw, hostname),
        None => Vec::new(),
    };
    let versions = versions(pass, raw.min_version.as_ref(), raw.max_version.as_ref());
    let client_auth = raw.client_auth.as_ref().and_then(|raw| client_auth(pass, raw));
    let mut tls = ListenerTls::managing(certificates, managed)?;
    tls.versions = versions;
    tls.strict_sni = raw.strict_sni.as_ref().is_some_and(|strict| strict.value);
    tls.client_auth = client_auth.map(Arc::new);
    Some(tls)
}

/// The TLS of a backend; none when it cannot be used, which is said.
pub fn upstream(pass: &mut Pass, raw: &Placed<RawUpstreamTls>) -> Option<UpstreamTls> {
    let RawUpstreamTls {
        hostname,
        ca,
        subject_alt_names,
        certificate: own,
        min_version,
        max_version,
    } = &raw.value;
    let roots = match ca {
        Some(ca) => bundle(pass, ca).map(Roots::Bundle),
        None => Some(Roots::System),
    };
    let names = subject_names(pass, subject_alt_names.iter().flatten());
    let shown = own.as_ref().map(|own| certificate(pass, own));
    let versions = versions(pass, min_version.as_ref(), max_version.as_ref());
    let (roots, shown) = match shown {
        Some(shown) => (roots?, Some(shown?)),
        None => (roots?, None),
    };
    UpstreamTls::new(hostname.text(), roots, names, shown, versions)
        .map_err(|error| {
            let place = match error {
                UpstreamTlsError::Hostname(_) => hostname.place,
                UpstreamTlsError::Trust(_) | UpstreamTlsError::Unusable(_) => raw.place,
            };
            pass.error(place, error.to_string());
        })
        .ok()
}

/// A certificate and its key; none when they cannot be used, which is said.
pub fn certificate(pass: &mut Pass, raw: &Placed<RawCertificate>) -> Option<Arc<Certificate>> {
    let RawCertificate { cert, key } = &raw.value;
    // Both are read in any case: both may be wrong.
    let (chain, secret) = (file(pass, cert), file(pass, key));
    let ((chain_path, chain), (key_path, secret)) = (chain?, secret?);
    let origin = Origin::Files {
        certificate: chain_path,
        key: key_path,
    };
    match Certificate::from_pem(origin, &chain, &secret, SystemTime::now()) {
        Ok(certificate) => Some(Arc::new(certificate)),
        Err(error) => {
            let (blamed, other, what) = match error.part() {
                Part::Certificate => (cert, key, "its key here"),
                Part::Key => (key, cert, "its certificate here"),
            };
            let message = format!("{}: {error}", blamed.text());
            pass.say(Diagnostic::error(blamed.place, message).related(other.place, what));
            None
        }
    }
}

/// The range of versions.
pub fn versions(
    pass: &mut Pass,
    lowest: Option<&TlsVersionText>,
    highest: Option<&TlsVersionText>,
) -> TlsVersions {
    let default = TlsVersions::default();
    let lowest = lowest.map_or(default.lowest(), |text| version(pass, text, default.lowest()));
    let Some(text) = highest else {
        return TlsVersions::between(lowest, default.highest()).unwrap_or(default);
    };
    let highest = version(pass, text, default.highest());
    TlsVersions::between(lowest, highest).unwrap_or_else(|| {
        pass.error(text.place(), "max_version is lower than min_version");
        default
    })
}

fn version(pass: &mut Pass, text: &TlsVersionText, default: TlsVersion) -> TlsVersion {
    match text.text() {
        "1.2" => TlsVersion::V1_2,
        "1.3" => TlsVersion::V1_3,
        other => {
            let message = format!("{other:?} is no version of TLS that is spoken");
            let hint = "write \"1.2\" or \"1.3\"; older ones are broken (RFC 8996)";
            pass.say(Diagnostic::error(text.place(), message).hint(hint));
            default
        }
    }
}

/// A bundle of roots out of one or more files; none when there is none that can be used, which is said.
pub fn bundle(pass: &mut Pass, raw: &Placed<Vec<Placed<String>>>) -> Option<TrustBundle> {
    if raw.value.is_empty() {
        pass.error(raw.place, "a list of CA files without a file trusts nobody");
        return None;
    }
    let mut whole = Vec::new();
    let mut paths = Vec::new();
    for path in &raw.value {
        let (shown, text) = file(pass, path)?;
        // Each for itself first, so that the file to blame is named.
        if let Err(error) = TrustBundle::from_pem("", &text) {
            pass.error(path.place, format!("{}: {error}", path.text()));
            return None;
        }
        whole.extend_from_slice(&text);
        whole.push(b'\n');
        paths.push(shown.to_string_lossy().into_owned());
    }
    let bundle = TrustBundle::from_pem(&paths.join("\n"), &whole);
    bundle
        .map_err(|error| pass.error(raw.place, error.to_string()))
        .ok()
}

/// Names of certificates' holders.
pub fn subject_names<'a>(pass: &mut Pass, raw: impl Iterator<Item = &'a Placed<String>>) -> Vec<SubjectName> {
    raw.filter_map(|text| {
        SubjectName::parse(text.text())
            .map_err(|error| {
                pass.say(
                    Diagnostic::error(text.place, error)
                        .hint("write spiffe://example.org/ns/shop/sa/web, spiffe://example.org/*, or dns:web.example.com"),
                );
            })
            .ok()
    })
    .collect()
}

fn client_auth(pass: &mut Pass, raw: &RawClientAuth) -> Option<ClientAuth> {
    let trust = bundle(pass, &raw.ca);
    let mut lists = Vec::new();
    let mut last: Option<Place> = None;
    for path in raw.crl.iter().flatten() {
        let Some((shown, text)) = file(pass, path) else {
            continue;
        };
        last = Some(path.place);
        match trust::revocation_lists(&text) {
            Ok(list) => lists.push((Arc::from(shown.to_string_lossy()), list)),
            Err(error) => pass.error(path.place, format!("{}: {error}", path.text())),
        }
    }
    let allow = subject_names(pass, raw.allow.iter().flatten());
    let mode = match raw.mode {
        Some(RawClientAuthMode::Optional) => ClientAuthMode::Optional,
        Some(RawClientAuthMode::Required) | None => ClientAuthMode::Required,
    };
    ClientAuth::new(mode, trust?, lists, allow)
        .map_err(|error| pass.error(last.unwrap_or(raw.ca.place), format!("client_auth: {error}")))
        .ok()
}

/// A file's path and bytes; none when it cannot be read, which is said. It is watched from now on.
pub fn file(pass: &mut Pass, path: &Placed<String>) -> Option<(PathBuf, Vec<u8>)> {
    let full = pass.path_of(path.text());
    let read = config::read(&full);
    pass.files
        .insert(full.clone(), config::fingerprint_of(read.as_deref().ok()));
    match read {
        Ok(bytes) => Some((full, bytes)),
        Err(error) => {
            let hint = config::unreadable_hint(&error);
            let message = format!("{} cannot be read: {error}", full.display());
            pass.say(Diagnostic::error(path.place, message).maybe_hint(hint));
            None
        }
    }
}
