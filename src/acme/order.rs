//! One order: from a name to a certificate and its key (RFC 8555 §7.4).
//!
//! ```text
//! account ─► order ─► answer in the store ─► shown by all replicas ─► "ask" ─► ready ─► signing request ─► chain
//! ```
//! What goes wrong ends it with a [`Failed`], which says in words what and whether the authority counts it. Trying again is
//! not decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    ExternalAccountKey, Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify, watch};

use super::challenge;
use super::directory::Way;
use super::hook::{self, Verb};
use super::plan::Window;
use super::store::{Answer, Store, StoreError, unix};
use crate::model::acme::{Acme, ChallengeKind};
use crate::model::tls::Origin;
use crate::model::{Certificate, ManagedName};

/// For a whole order.
const PATIENCE: Duration = Duration::from_secs(900);
/// For the authority to have asked, and for it to have signed.
const POLL: Duration = Duration::from_secs(300);
/// Between two asks when to renew, where the authority does not say or cannot be asked, in seconds.
const ASK_AGAIN: u64 = 6 * 3600;
/// Bounds on what it says, in seconds.
const ASK_AGAIN_RANGE: (u64, u64) = (600, 24 * 3600);
/// Characters of an authority's words that are told.
const MAX_WORDS: usize = 500;

/// What orders of one account share.
pub(super) struct Office {
    settings: Arc<Acme>,
    store: Arc<Store>,
    way: Way,
    account: Mutex<Option<Account>>,
    /// The tokens that are answered by this replica now.
    shown: watch::Receiver<BTreeSet<String>>,
    /// Has the store looked at at once.
    look: Arc<Notify>,
    /// The tokens whose answers were put into the store and are there still, by the name of the order.
    given: std::sync::Mutex<BTreeMap<ManagedName, Vec<String>>>,
}

/// Why an order came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// Whether the authority has said no, and counts it.
    pub(super) refused: bool,
    /// What happened, in words.
    pub(super) why: String,
    /// How long it wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// Whether that goes for all names.
    pub(super) for_all: bool,
    /// Whether the authority does not know the account: the next try opens a new one.
    pub(super) no_account: bool,
}

/// An account as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    contact: Vec<String>,
    credentials: AccountCredentials,
}

impl Office {
    pub(super) fn new(
        settings: Arc<Acme>,
        store: Arc<Store>,
        shown: watch::Receiver<BTreeSet<String>>,
        look: Arc<Notify>,
    ) -> Self {
        Self {
            way: Way::new(&settings),
            settings,
            store,
            account: Mutex::new(None),
            shown,
            look,
            given: std::sync::Mutex::default(),
        }
    }

    /// Gets a certificate for a name and puts it into the store. `before`: the one that it is to take the place of.
    pub(super) async fn order(
        &self,
        name: &ManagedName,
        before: Option<&Certificate>,
    ) -> Result<Certificate, Failed> {
        let order = tokio::time::timeout(PATIENCE, self.try_order(name, before)).await;
        let ended = order.unwrap_or_else(|_| {
            Err(Failed::refused(format!(
                "it was not done within {} minutes",
                PATIENCE.as_secs() / 60
            )))
        });
        self.end_answer(name).await;
        if let Err(failed) = &ended {
            // The directory or the account may be others by the next try.
            *self.account.lock().await = None;
            if failed.no_account
                && let Err(error) = self.store.remove_account().await
            {
                tracing::error!("{error}");
            }
        }
        ended
    }

    /// Asks when the authority wants a certificate renewed.
    pub(super) async fn ask(&self, certificate: &Certificate) -> Window {
        let about = u64::try_from(certificate.not_after()).unwrap_or(0);
        let now = unix(SystemTime::now());
        let nothing = Window {
            about,
            start: 1,
            end: 0,
            ask_again: now + ASK_AGAIN,
        };
        let Some(id) = identifier(certificate) else {
            return nothing;
        };
        let account = match self.account().await {
            Ok(account) => account,
            Err(failed) => {
                tracing::debug!("cannot ask when to renew: {}", failed.why);
                return nothing;
            }
        };
        match account.renewal_info(&id).await {
            Ok((info, again)) => {
                let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
                let window = info.suggested_window;
                Window {
                    about,
                    start: seconds(window.start.unix_timestamp()),
                    end: seconds(window.end.unix_timestamp()),
                    ask_again: now + again.as_secs().clamp(ASK_AGAIN_RANGE.0, ASK_AGAIN_RANGE.1),
                }
            }
            Err(error) => {
                tracing::debug!("the authority does not say when to renew: {error}");
                nothing
            }
        }
    }

    async fn try_order(
        &self,
        name: &ManagedName,
        before: Option<&Certificate>,
    ) -> Result<Certificate, Failed> {
        let account = self.account().await?;
        let identifiers = [Identifier::Dns(name.to_string())];
        let replaced = before.and_then(identifier);
        let mut order = match account.new_order(&new_order(&identifiers, replaced)).await {
            // The authority knows no renewals, or that one is of another account, or was replaced already.
            Err(error) if before.is_some() && !is(&error, "rateLimited") => {
                account.new_order(&NewOrder::new(&identifiers)).await
            }
            made => made,
        }
        .map_err(|error| self.failed(&error))?;
        let mut records = Vec::new();
        let proven = self.prove(&mut order, name, &mut records).await;
        for (record, value) in &records {
            if let ChallengeKind::Dns(hook) = &self.settings.challenge
                && let Err(error) = hook::run(hook, Verb::Remove, record, value).await
            {
                tracing::warn!(%name, "a record was left behind in DNS: {error}");
            }
        }
        self.end_answer(name).await;
        proven?;
        self.sign(&mut order, name).await
    }

    /// Shows that the name is ours.
    async fn prove(
        &self,
        order: &mut Order,
        name: &ManagedName,
        records: &mut Vec<(String, String)>,
    ) -> Result<(), Failed> {
        let mut waiting = order.authorizations();
        while let Some(authorization) = waiting.next().await {
            let mut authorization = authorization.map_err(|error| self.failed(&error))?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                other => return Err(Failed::refused(format!("the authorization is {other:?}"))),
            }
            let (kind, wanted) = match &self.settings.challenge {
                ChallengeKind::Http => (challenge::HTTP, ChallengeType::Http01),
                ChallengeKind::TlsAlpn => (challenge::TLS_ALPN, ChallengeType::TlsAlpn01),
                ChallengeKind::Dns(_) => (challenge::DNS, ChallengeType::Dns01),
            };
            let Some(mut challenge) = authorization.challenge(wanted) else {
                return Err(Failed::refused(format!(
                    "the authority does not offer {kind} for it"
                )));
            };
            let Identifier::Dns(base) = challenge.identifier().identifier.clone() else {
                return Err(Failed::refused(
                    "the authority asks for something that is no name".to_owned(),
                ));
            };
            let answer = Answer {
                kind: kind.to_owned(),
                name: base.clone(),
                token: challenge.token.clone(),
                key_authorization: challenge.key_authorization().as_str().to_owned(),
                since: unix(SystemTime::now()),
            };
            if let ChallengeKind::Dns(hook) = &self.settings.challenge {
                let (record, value) = (hook::record(&base), challenge.key_authorization().dns_value());
                records.push((record.clone(), value.clone()));
                hook::run(hook, Verb::Add, &record, &value)
                    .await
                    .map_err(Failed::refused)?;
                tokio::time::sleep(hook.settle).await;
            } else {
                self.show(answer, name).await?;
            }
            challenge.set_ready().await.map_err(|error| self.failed(&error))?;
        }
        let policy = RetryPolicy::new().backoff(1.5).timeout(POLL);
        match order.poll_ready(&policy).await {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => Err(self.why_invalid(order).await),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Puts an answer into the store and waits until it is given, here and by the other replicas.
    async fn show(&self, answer: Answer, name: &ManagedName) -> Result<(), Failed> {
        let token = answer.token.clone();
        // Before it is there, so that it goes whatever happens.
        self.given().entry(name.clone()).or_default().push(token.clone());
        self.store.put_answer(&answer).await?;
        self.look.notify_one();
        let mut shown = self.shown.clone();
        let gone = shown.wait_for(|tokens| tokens.contains(&token)).await.is_err();
        if gone {
            return Err(Failed::unwell("the process is ending".to_owned()));
        }
        tokio::time::sleep(self.settings.pace.spread).await;
        Ok(())
    }

    /// Takes away what was answered for an order.
    async fn end_answer(&self, name: &ManagedName) {
        let tokens = self.given().remove(name);
        for token in tokens.into_iter().flatten() {
            if let Err(error) = self.store.remove_answer(&token).await {
                tracing::warn!("an answer was left behind: {error}");
            }
            self.look.notify_one();
        }
    }

    /// Takes away the answers of orders that were broken off.
    pub(super) async fn end_answers(&self) {
        let names: Vec<_> = self.given().keys().cloned().collect();
        for name in names {
            self.end_answer(&name).await;
        }
    }

    fn given(&self) -> MutexGuard<'_, BTreeMap<ManagedName, Vec<String>>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the authority has found wrong.
    async fn why_invalid(&self, order: &mut Order) -> Failed {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else {
                continue;
            };
            let problem = state
                .challenges
                .iter()
                .find_map(|challenge| challenge.error.as_ref());
            if let Some(problem) = problem {
                return Failed::refused(words(problem));
            }
        }
        Failed::refused("the authority does not say why".to_owned())
    }

    /// Has the certificate signed, and keeps it.
    async fn sign(&self, order: &mut Order, name: &ManagedName) -> Result<Certificate, Failed> {
        let own = |error: rcgen::Error| Failed::unwell(format!("no key can be made: {error}"));
        let key = KeyPair::generate().map_err(own)?;
        let mut params = CertificateParams::new(vec![name.to_string()]).map_err(own)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(own)?;
        order
            .finalize_csr(request.der())
            .await
            .map_err(|error| self.failed(&error))?;
        let policy = RetryPolicy::new().backoff(1.5).timeout(POLL);
        let chain = order
            .poll_certificate(&policy)
            .await
            .map_err(|error| self.failed(&error))?;
        let key = key.serialize_pem();
        let origin = Origin::Named(name.to_string().into());
        let certificate = Certificate::from_pem(origin, chain.as_bytes(), key.as_bytes(), SystemTime::now());
        let certificate = certificate
            .map_err(|error| Failed::refused(format!("what the authority signed is of no use: {error}")))?;
        if !certificate.names().contains(name.pattern()) {
            return Err(Failed::refused(
                "what the authority signed is for another name".to_owned(),
            ));
        }
        self.store.put_certificate(name, &chain, &key).await?;
        Ok(certificate)
    }

    /// The account: as it was used before, as it is kept, or a new one.
    async fn account(&self) -> Result<Account, Failed> {
        let mut used = self.account.lock().await;
        if let Some(account) = &*used {
            return Ok(account.clone());
        }
        let kept: Option<Kept> = self.store.account().await?;
        let account = match kept {
            Some(kept) => self.restore(kept).await?,
            None => self.open_account().await?,
        };
        *used = Some(account.clone());
        Ok(account)
    }

    async fn restore(&self, kept: Kept) -> Result<Account, Failed> {
        let Kept { contact, credentials } = kept;
        let text = serde_json::to_value(&credentials)
            .map_err(|_| Failed::unwell("the account cannot be read".to_owned()))?;
        let account = Account::builder_with_http(Box::new(self.way.clone()))
            .from_credentials(credentials)
            .await
            .map_err(|error| self.failed(&error))?;
        if contact != self.settings.contact {
            let new: Vec<&str> = self.settings.contact.iter().map(String::as_str).collect();
            account
                .update_contacts(&new)
                .await
                .map_err(|error| self.failed(&error))?;
            let credentials = serde_json::from_value(text)
                .map_err(|_| Failed::unwell("the account cannot be read".to_owned()))?;
            self.keep(credentials).await?;
        }
        Ok(account)
    }

    async fn open_account(&self) -> Result<Account, Failed> {
        let contact: Vec<&str> = self.settings.contact.iter().map(String::as_str).collect();
        let wanted = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let external = self.settings.external_account.as_ref();
        let external = external.map(|one| ExternalAccountKey::new(one.key_id.clone(), &one.key));
        let directory = self.settings.directory.as_str().to_owned();
        let (account, credentials) = Account::builder_with_http(Box::new(self.way.clone()))
            .create(&wanted, directory, external.as_ref())
            .await
            .map_err(|error| self.failed(&error))?;
        self.keep(credentials).await?;
        tracing::info!(
            authority = self.settings.directory.host(),
            "an ACME account was opened"
        );
        Ok(account)
    }

    async fn keep(&self, credentials: AccountCredentials) -> Result<(), Failed> {
        let contact = self.settings.contact.clone();
        Ok(self.store.put_account(&Kept { contact, credentials }).await?)
    }

    fn failed(&self, error: &Error) -> Failed {
        judge(error, self.way.heard())
    }
}

impl Failed {
    pub(super) fn refused(why: String) -> Self {
        Self {
            refused: true,
            why,
            retry_after: None,
            for_all: false,
            no_account: false,
        }
    }

    pub(super) fn unwell(why: String) -> Self {
        Self {
            refused: false,
            ..Self::refused(why)
        }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        // Not the authority's fault, but it has signed something: not to be repeated in a hurry.
        Self::refused(error.to_string())
    }
}

/// What an error of the library's means. `heard`: how long the last answer that refused asked to be left alone.
fn judge(error: &Error, heard: Option<Duration>) -> Failed {
    match error {
        Error::Api(problem) => {
            let limited = is(error, "rateLimited");
            let refused = !is(error, "serverInternal") && problem.status.is_none_or(|status| status < 500);
            Failed {
                refused: refused || limited,
                why: words(problem),
                retry_after: heard,
                for_all: limited,
                no_account: is(error, "accountDoesNotExist"),
            }
        }
        Error::Timeout(_) => Failed::refused("the authority took too long".to_owned()),
        Error::Json(_) => Failed {
            retry_after: heard,
            ..Failed::unwell("the authority's answer cannot be understood".to_owned())
        },
        other => Failed {
            retry_after: heard,
            ..Failed::unwell(format!("the authority cannot be asked: {}", cut(&chain(other))))
        },
    }
}

/// Whether an error is a problem of this kind (RFC 8555 §6.7).
fn is(error: &Error, kind: &str) -> bool {
    let Error::Api(problem) = error else { return false };
    let named = problem.r#type.as_deref().unwrap_or_default();
    named.strip_prefix("urn:ietf:params:acme:error:") == Some(kind)
}

/// What the authority says, as it says it.
fn words(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("no type");
    let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind);
    let detail = problem.detail.as_deref().unwrap_or("no words");
    let more: Vec<&str> = problem
        .subproblems
        .iter()
        .filter_map(|one| one.detail.as_deref())
        .collect();
    let more = match more.is_empty() {
        true => String::new(),
        false => format!("; {}", more.join("; ")),
    };
    cut(&format!("the authority says {kind}: {detail}{more}"))
}

/// Without what would break a line of the log, and not longer than a person reads.
fn cut(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().take(MAX_WORDS).map(plain).collect()
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

fn new_order<'a>(identifiers: &'a [Identifier], replaced: Option<CertificateIdentifier<'a>>) -> NewOrder<'a> {
    let order = NewOrder::new(identifiers);
    match replaced {
        Some(replaced) => order.replaces(replaced),
        None => order,
    }
}

fn identifier(certificate: &Certificate) -> Option<CertificateIdentifier<'static>> {
    let first: &CertificateDer<'_> = certificate.key().cert.first()?;
    CertificateIdentifier::try_from(first).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, status: u16) -> Error {
        let text = format!(
            r#"{{"type":"urn:ietf:params:acme:error:{kind}","detail":"so\nit is","status":{status},
                "subproblems":[{{"detail":"a.example"}},{{}}]}}"#
        );
        Error::Api(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn errors_are_told_in_words_and_by_who_counts_them() {
        let hour = Some(Duration::from_secs(3600));
        for (error, heard, refused, for_all, why) in [
            (
                problem("rateLimited", 429),
                hour,
                true,
                true,
                "the authority says rateLimited: so it is; a.example",
            ),
            (
                problem("dns", 400),
                None,
                true,
                false,
                "the authority says dns: so it is; a.example",
            ),
            (
                problem("serverInternal", 500),
                hour,
                false,
                false,
                "the authority says serverInternal: so it is; a.example",
            ),
            (
                Error::Timeout(None),
                None,
                true,
                false,
                "the authority took too long",
            ),
            (
                Error::Other(Box::new(std::io::Error::other("no way"))),
                None,
                false,
                false,
                "the authority cannot be asked: no way",
            ),
        ] {
            let expected = Failed {
                refused,
                why: why.to_owned(),
                retry_after: heard,
                for_all,
                no_account: false,
            };
            assert_eq!(judge(&error, heard), expected);
        }
        let long = Error::Other("x".repeat(100_000).into());
        assert!(judge(&long, None).why.len() < 600);
        assert!(judge(&problem("accountDoesNotExist", 400), None).no_account);
    }
}
