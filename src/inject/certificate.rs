//! The certificate that the API server is shown, and the authority that it is to trust for it: a life in steps. Pure but for the making
//! of keys.
//!
//! # Why not for ever
//! The Secret has the private key of a certificate that the API server trusts when it asks what to put into Pods. It lives 90 days and is
//! replaced 30 days before its end, time enough to notice that nobody replaces it. Its authority signs this one certificate, and
//! its key is thrown away at once: there is nothing to steal that could sign another.
//!
//! # Why in steps
//! A certificate by a new authority may be shown only when every API server trusts that authority, and the old one may be
//! distrusted only when every replica shows the new certificate. So both are trusted for a while, before and after:
//! ```text
//!            Stage            Promote (5 min later)        Forget (5 min later)
//! shown      old              new                          new
//! trusted    old, new         new, old                     new
//! ```
//! # Start-up and recovery
//! Without a certificate, or with one that cannot be shown (expired, another's key, another name), one is made and shown at
//! once (Make); what was trusted before stays trusted until it is settled. All that is known stands in the Secret, so any replica goes on where
//! another has ended.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose};
use rcgen::{IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{ServerName, UnixTime};
use serde_json::{Value, json};

use crate::model::Certificate;
use crate::model::tls::{Origin, TrustBundle, provider};

/// How long a certificate lives.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long before its end another is made.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long API servers and replicas have to take notice of a step.
const SETTLE: Duration = Duration::from_secs(300);
/// How far clocks may be apart.
const SKEW: Duration = Duration::from_secs(3600);

/// A certificate, its key, and the authority that has signed it; all PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    chain: String,
    key: String,
    authority: String,
}

/// What is kept in the Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// What is shown.
    current: Pair,
    /// What will be shown when its authority is trusted.
    next: Option<Pair>,
    /// The authority of what was shown before.
    old: Option<String>,
    /// When the last step was taken, in seconds since 1970.
    since: u64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Make a certificate and show it at once: there is none that can be shown.
    Make,
    /// Make the next one, and have its authority trusted.
    Stage,
    /// Show the next one.
    Promote,
    /// Trust the authority of the one before no longer.
    Forget,
}

/// What to do next, for a certificate of these names.
pub fn plan(kept: Option<&Kept>, names: &[String], now: SystemTime) -> Step {
    let Some(kept) = kept else {
        return Step::Make;
    };
    let Ok(certificate) = kept.current.check(names, now) else {
        return Step::Make;
    };
    let is_settled = seconds(now).saturating_sub(kept.since) >= SETTLE.as_secs();
    let ends = u64::try_from(certificate.not_after()).unwrap_or(0);
    match (&kept.next, &kept.old) {
        // One that is of no use is made anew.
        (Some(next), _) if next.check(names, now).is_err() => Step::Stage,
        (Some(_), _) if is_settled => Step::Promote,
        (Some(_), _) => Step::Keep,
        (None, Some(_)) if is_settled => Step::Forget,
        (None, None) if ends.saturating_sub(seconds(now)) < RENEW_BEFORE.as_secs() => Step::Stage,
        (None, _) => Step::Keep,
    }
}

/// What is kept after a step.
///
/// # Errors
/// A key cannot be made, or a name is none.
pub fn take(
    step: Step,
    kept: Option<Kept>,
    names: &[String],
    now: SystemTime,
) -> Result<Option<Kept>, rcgen::Error> {
    let since = seconds(now);
    Ok(match (step, kept) {
        (Step::Make, kept) => Some(Kept {
            current: Pair::make(names, now)?,
            next: None,
            old: kept.map(|kept| kept.current.authority),
            since,
        }),
        (Step::Stage, Some(kept)) => Some(Kept {
            next: Some(Pair::make(names, now)?),
            since,
            ..kept
        }),
        (
            Step::Promote,
            Some(Kept {
                current,
                next: Some(next),
                ..
            }),
        ) => Some(Kept {
            current: next,
            next: None,
            old: Some(current.authority),
            since,
        }),
        (Step::Forget, Some(kept)) => Some(Kept {
            old: None,
            since,
            ..kept
        }),
        (_, kept) => kept,
    })
}

impl Kept {
    /// Reads what a Secret has; none where there is nothing that could be shown. Parts that cannot be used are left out.
    pub fn of_secret(secret: &Value) -> Option<Self> {
        let text = |name: &str| {
            let text = secret["data"][name].as_str()?;
            String::from_utf8(BASE64.decode(text.as_bytes()).ok()?).ok()
        };
        let authority =
            |name: &str| text(name).filter(|text| TrustBundle::from_pem(name, text.as_bytes()).is_ok());
        let pair = |prefix: &str| {
            Some(Pair {
                chain: text(&format!("{prefix}tls.crt"))?,
                key: text(&format!("{prefix}tls.key"))?,
                authority: authority(&format!("{prefix}ca.crt"))?,
            })
        };
        Some(Self {
            current: pair("")?,
            next: pair("next-"),
            old: authority("old-ca.crt"),
            since: text("since").and_then(|text| text.parse().ok()).unwrap_or(0),
        })
    }

    /// The `data` of the Secret.
    pub fn data(&self) -> Value {
        let encoded = |text: &str| json!(BASE64.encode(text.as_bytes()));
        let mut data = json!({"since": encoded(&self.since.to_string())});
        let pairs = [("", Some(&self.current)), ("next-", self.next.as_ref())];
        for (prefix, pair) in pairs {
            let Some(pair) = pair else { continue };
            data[format!("{prefix}tls.crt")] = encoded(&pair.chain);
            data[format!("{prefix}tls.key")] = encoded(&pair.key);
            data[format!("{prefix}ca.crt")] = encoded(&pair.authority);
        }
        if let Some(old) = &self.old {
            data["old-ca.crt"] = encoded(old);
        }
        data
    }

    /// What the API server is to trust, as `caBundle` has it: PEM in base64.
    pub fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| &next.authority);
        let all = [Some(&self.current.authority), next, self.old.as_ref()];
        let all: String = all
            .into_iter()
            .flatten()
            .map(|one| format!("{}\n", one.trim_end()))
            .collect();
        BASE64.encode(all.as_bytes())
    }

    /// What is shown, ready for handshakes. For which names it is does not matter here: a replica with more names than the one that
    /// holds the Lease has to serve until it holds it itself.
    ///
    /// # Errors
    /// Why it cannot be shown, in words.
    pub fn shown(&self, now: SystemTime) -> Result<Certificate, String> {
        self.current.check(&[], now)
    }
}

impl Pair {
    /// A new authority, and a certificate for these names that it has signed. The authority's key is gone when this returns.
    fn make(names: &[String], now: SystemTime) -> Result<Self, rcgen::Error> {
        let (begin, end) = (now - SKEW, now + LIFE);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name = named(&format!("tidegate-inject authority {}", seconds(now)));
        (params.not_before, params.not_after) = (begin.into(), end.into());
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);

        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = named("tidegate-inject");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (begin.into(), end.into());
        let key = KeyPair::generate()?;
        Ok(Self {
            chain: params.signed_by(&key, &issuer)?.pem(),
            key: key.serialize_pem(),
            authority,
        })
    }

    /// Whether who trusts the authority takes the certificate for each of the names, and the key is its own.
    fn check(&self, names: &[String], now: SystemTime) -> Result<Certificate, String> {
        let origin = Origin::Named("the injector's Secret".into());
        let certificate = Certificate::from_pem(origin, self.chain.as_bytes(), self.key.as_bytes(), now)
            .map_err(|error| error.to_string())?;
        let trust =
            TrustBundle::from_pem("ca.crt", self.authority.as_bytes()).map_err(|error| error.to_string())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(trust.roots()), Arc::clone(provider()))
                .build()
                .map_err(|error| error.to_string())?;
        let chain = &certificate.key().cert;
        let (leaf, more) = chain.split_first().ok_or("there is no certificate")?;
        let at = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        for name in names {
            let name = server_name(name).ok_or_else(|| format!("{name:?} is no name"))?;
            verifier
                .verify_server_cert(leaf, more, &name, &[], at)
                .map_err(|error| error.to_string())?;
        }
        Ok(certificate)
    }
}

/// A name or an address, as a client looks for it in a certificate.
pub fn server_name(text: &str) -> Option<ServerName<'static>> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(ServerName::IpAddress(address.into())),
        Err(_) => ServerName::try_from(text.to_owned()).ok(),
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["tidegate-inject.tidegate.svc".to_owned(), "10.0.0.1".to_owned()]
    }

    fn day(day: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + day * 24 * 3600)
    }

    /// Certificates in a bundle.
    fn trusted(kept: &Kept) -> Vec<String> {
        let pem = String::from_utf8(BASE64.decode(kept.bundle().as_bytes()).unwrap()).unwrap();
        let all = pem.split_inclusive("-----END CERTIFICATE-----").map(str::trim);
        all.filter(|one| !one.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn a_certificate_is_made_kept_and_replaced_in_steps() {
        let step = |kept: Option<Kept>, expected: Step, now: SystemTime| {
            let step = plan(kept.as_ref(), &names(), now);
            assert_eq!(step, expected, "{:?}", now.duration_since(day(0)));
            let kept = take(step, kept, &names(), now).unwrap().unwrap();
            // Any replica may go on with what stands in the Secret.
            let read = Kept::of_secret(&json!({"data": kept.data()})).unwrap();
            assert!(read == kept);
            // Whatever is shown is trusted.
            assert!(trusted(&kept).contains(&kept.current.authority.trim().to_owned()));
            assert!(kept.shown(now).is_ok());
            kept
        };
        let soon = |since: SystemTime| since + SETTLE - Duration::from_secs(1);
        let first = step(None, Step::Make, day(0));
        assert_eq!(trusted(&first).len(), 1);
        let first = step(Some(first), Step::Keep, day(59));
        let staged = step(Some(first.clone()), Step::Stage, day(61));
        assert!(staged.current == first.current && trusted(&staged).len() == 2);
        let staged = step(Some(staged), Step::Keep, soon(day(61)));
        let second = step(Some(staged.clone()), Step::Promote, day(62));
        assert!(second.current == staged.next.unwrap() && trusted(&second).len() == 2);
        let second = step(Some(second), Step::Keep, soon(day(62)));
        let forgot = step(Some(second), Step::Forget, day(63));
        assert_eq!(trusted(&forgot).len(), 1);
        step(Some(forgot), Step::Keep, day(64));
    }

    #[test]
    fn what_cannot_be_shown_is_replaced_at_once_and_trusted_on() {
        let kept = take(Step::Make, None, &names(), day(0)).unwrap().unwrap();
        let other = Pair::make(&names(), day(0)).unwrap();
        let broken = |edit: fn(&mut Kept, Pair)| {
            let mut broken = kept.clone();
            edit(&mut broken, other.clone());
            broken
        };
        let cases = [
            broken(|kept, other| kept.current.key = other.key),
            broken(|kept, other| kept.current.authority = other.authority),
            broken(|kept, _| kept.current.chain = "nonsense".to_owned()),
        ];
        for case in cases {
            assert_eq!(plan(Some(&case), &names(), day(1)), Step::Make);
            let next = take(Step::Make, Some(case.clone()), &names(), day(1))
                .unwrap()
                .unwrap();
            assert!(trusted(&next).contains(&case.current.authority.trim().to_owned()));
            assert_eq!(plan(Some(&next), &names(), day(1)), Step::Keep);
        }
        assert_eq!(plan(Some(&kept), &names(), day(91)), Step::Make, "expired");
        let more = [names(), vec!["other.svc".to_owned()]].concat();
        assert_eq!(plan(Some(&kept), &more, day(1)), Step::Make, "another name");
        let unfit = Kept {
            next: Some(Pair {
                key: kept.current.key.clone(),
                ..other.clone()
            }),
            ..kept.clone()
        };
        assert_eq!(plan(Some(&unfit), &names(), day(1)), Step::Stage);
    }

    #[test]
    fn a_secret_that_others_have_written_is_read_with_care() {
        let kept = take(Step::Make, None, &names(), day(0)).unwrap().unwrap();
        assert!(Kept::of_secret(&json!({})).is_none());
        assert!(Kept::of_secret(&json!({"data": {"tls.crt": 1}})).is_none());
        let mut data = kept.data();
        data["old-ca.crt"] = json!(BASE64.encode(b"nonsense"));
        data["next-tls.crt"] = json!("%%%");
        data["since"] = json!(BASE64.encode(b"yesterday"));
        let read = Kept::of_secret(&json!({"data": data})).unwrap();
        assert!(read.old.is_none() && read.next.is_none() && read.since == 0);
        data["ca.crt"] = json!(BASE64.encode(b"nonsense"));
        assert!(Kept::of_secret(&json!({"data": data})).is_none());
    }
}
