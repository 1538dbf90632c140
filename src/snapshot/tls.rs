//! TLS of a listener, compiled: which certificate a client gets, and what the library needs for a handshake.
//!
//! # Which certificate
//! Among those that have the name that the client asks for (the exact name first, then wildcards), the first whose key
//! the client can verify: by its signature schemes, and with TLS 1.2 by its cipher suites. Keys that are cheap to sign
//! with go first (ECDSA and Ed25519 cost a tenth of RSA), then the order of the configuration. A client that names
//! nobody, or somebody unknown, gets the first of all that it can verify, unless the listener is strict.
//!
//! A name whose certificate Tidegate gets by itself and does not have yet is refused, unless the configuration has a
//! certificate to stand in for it: the first one. One that was got for another name never stands in.
//!
//! # Which cipher suite
//! The first of ours that the client knows ([`provider`]). But a client that would rather have ChaCha20 than AES has no
//! instructions for AES, and gets what it would rather have.
//!
//! # Resumption
//! Sessions are kept by the clients, in tickets, so that any worker can take up any session, also after a change of the
//! certificates. One set of ticket keys serves all listeners and is replaced every six hours. A session is taken up only
//! for the name that it was made for. A listener that asks for client certificates gives no tickets: a session that is
//! taken up shows no certificate again, and would outlive its revocation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig, SignatureScheme, SupportedCipherSuite};

use super::hosts::HostIndex;
use crate::model::tls::{ClientAuthMode, TlsVersion, provider};
use crate::model::{Certificate, HostPattern, Listener, ListenerKind, ListenerTls, ManagedName, Protocols};

/// A listener's TLS, ready for handshakes.
pub struct TlsService {
    /// What the library needs, for clients to whom our order of cipher suites is given.
    config: Arc<ServerConfig>,
    /// The same, for clients that get the first of their own.
    in_clients_order: Arc<ServerConfig>,
    /// The certificates by name.
    pub certificates: Arc<Certificates>,
    /// Whether clients are asked who they are.
    pub asks_clients: bool,
    /// Whether what clients show is verified; if not, nobody is told of it.
    pub verifies_clients: bool,
    /// Whether only HTTP/2 is spoken, which a client has to ask for (ALPN).
    pub http2_only: bool,
}

/// The keys of all tickets of the process.
pub(super) struct Tickets(Option<Arc<dyn ProducesTickets>>);

/// Certificates that Tidegate has got by itself.
pub(super) type Managed = BTreeMap<ManagedName, Arc<Certificate>>;

/// A listener's certificates by name.
pub struct Certificates {
    /// Those that are cheap to sign with first.
    all: Vec<Arc<Certificate>>,
    by_name: HostIndex<Arc<[Arc<Certificate>]>>,
    /// Names whose certificate is not there yet.
    awaited: HostIndex<()>,
    /// Whether the configuration has a certificate, which may stand in for those that are not there yet.
    has_own: bool,
    strict: bool,
    /// The suites of the versions offered.
    suites: Vec<SupportedCipherSuite>,
}

/// Why no certificate is there for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCertificate {
    /// None has the name.
    UnknownName,
    /// The one that is to have the name is not there yet.
    NotYet,
    /// The client can verify none of those that there are.
    NothingInCommon,
}

impl Tickets {
    /// With keys of their own. Without randomness there are none, and every handshake is a full one.
    pub(super) fn new() -> Self {
        let made = rustls::crypto::aws_lc_rs::Ticketer::new();
        Self(
            made.map_err(
                |error| tracing::error!(%error, "no keys for session tickets; sessions cannot be resumed"),
            )
            .ok(),
        )
    }
}

impl TlsService {
    /// Of a listener; none when it has no TLS.
    pub(super) fn of(listener: &Listener, managed: &Managed, tickets: &Tickets) -> Option<Arc<Self>> {
        let tls = listener.tls.as_ref()?;
        let certificates = Arc::new(Certificates::new(tls, managed));
        let made = Self::config(tls, listener.kind, listener.protocols, &certificates, tickets);
        let mut config = made
            .map_err(|error| tracing::error!(listener = %listener.name, %error, "TLS cannot be served"))
            .ok()?;
        let in_clients_order = Arc::new(config.clone());
        config.ignore_client_order = true;
        Some(Arc::new(Self {
            config: Arc::new(config),
            in_clients_order,
            certificates,
            asks_clients: tls.client_auth.is_some(),
            verifies_clients: tls
                .client_auth
                .as_ref()
                .is_some_and(|auth| auth.mode != ClientAuthMode::Unverified),
            http2_only: listener.kind == ListenerKind::Http && !listener.protocols.http1,
        }))
    }

    /// What the library needs for a client.
    pub fn config_for(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        if wants_chacha(hello.cipher_suites()) {
            &self.in_clients_order
        } else {
            &self.config
        }
    }

    fn config(
        tls: &ListenerTls,
        kind: ListenerKind,
        protocols: Protocols,
        certificates: &Arc<Certificates>,
        tickets: &Tickets,
    ) -> Result<ServerConfig, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(tls.versions.supported())?;
        let builder = match &tls.client_auth {
            Some(auth) => builder.with_client_cert_verifier(Arc::clone(auth.verifier())),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(certificates) as _);
        let offered = [(protocols.http2, "h2"), (protocols.http1, "http/1.1")];
        config.alpn_protocols = offered
            .into_iter()
            .filter(|(on, _)| *on && kind == ListenerKind::Http)
            .map(|(_, name)| name.into())
            .collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match (&tickets.0, &tls.client_auth) {
            (Some(ticketer), None) => config.ticketer = Arc::clone(ticketer),
            (None, _) | (_, Some(_)) => config.send_tls13_tickets = 0,
        }
        Ok(config)
    }
}

/// Whether the first AEAD that a client names is ChaCha20. What it names besides may be a placeholder that nobody knows
/// (RFC 8701).
fn wants_chacha(suites: &[CipherSuite]) -> bool {
    let known = suites
        .iter()
        .find(|asked| provider().cipher_suites.iter().any(|own| own.suite() == **asked));
    matches!(
        known,
        Some(
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        )
    )
}

impl Certificates {
    fn new(tls: &ListenerTls, managed: &Managed) -> Self {
        let mut all = tls.certificates.clone();
        let mut awaited = HostIndex::default();
        for name in &tls.managed {
            match managed.get(name) {
                Some(certificate) => all.push(Arc::clone(certificate)),
                None => awaited.insert(name.pattern(), ()),
            }
        }
        let mut by_name: Vec<(HostPattern, Vec<Arc<Certificate>>)> = Vec::new();
        let cheap_first =
            |list: &mut Vec<Arc<Certificate>>| list.sort_by_key(|certificate| certificate.is_rsa());
        for certificate in &all {
            for name in certificate.names() {
                match by_name.iter_mut().find(|(known, _)| known == name) {
                    Some((_, list)) => list.push(Arc::clone(certificate)),
                    None => by_name.push((name.clone(), vec![Arc::clone(certificate)])),
                }
            }
        }
        let mut index = HostIndex::default();
        for (name, mut list) in by_name {
            cheap_first(&mut list);
            index.insert(&name, Arc::from(list));
        }
        // The first is the default; of its own names' others, the cheap ones go before it.
        let names = all
            .first()
            .map(|first| first.names().to_vec())
            .unwrap_or_default();
        all.sort_by_key(|certificate| (certificate.names() != names, certificate.is_rsa()));
        let speaks = |version| tls.versions.lowest() <= version && version <= tls.versions.highest();
        let suites = provider().cipher_suites.iter().filter(|suite| match suite {
            SupportedCipherSuite::Tls12(_) => speaks(TlsVersion::V1_2),
            SupportedCipherSuite::Tls13(_) => speaks(TlsVersion::V1_3),
        });
        Self {
            by_name: index,
            awaited,
            has_own: !tls.certificates.is_empty(),
            strict: tls.strict_sni,
            suites: suites.copied().collect(),
            all,
        }
    }

    /// The certificate for a client. The name is in lower case.
    ///
    /// # Errors
    /// There is none for it.
    pub fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
        suites: &[CipherSuite],
    ) -> Result<&Arc<Certificate>, NoCertificate> {
        let usable = |list: &'_ [Arc<Certificate>]| -> Option<usize> {
            list.iter()
                .position(|certificate| self.verifiable(certificate, schemes, suites))
        };
        let mut known = false;
        let named = name.and_then(|name| {
            self.by_name.walk(name, |list| {
                known = true;
                usable(list).and_then(|at| list.get(at))
            })
        });
        if let Some(named) = named {
            return Ok(named);
        }
        let awaited = !known && name.is_some_and(|name| self.awaited.walk(name, |()| Some(())).is_some());
        if awaited && (self.strict || !self.has_own) {
            return Err(NoCertificate::NotYet);
        }
        if self.strict && !known {
            return Err(NoCertificate::UnknownName);
        }
        if self.all.is_empty() {
            return Err(NoCertificate::NotYet);
        }
        usable(&self.all)
            .and_then(|at| self.all.get(at))
            .ok_or(NoCertificate::NothingInCommon)
    }

    /// The same for what a client says first.
    ///
    /// # Errors
    /// There is none for it.
    pub fn choose_for(&self, hello: &ClientHello<'_>) -> Result<&Arc<Certificate>, NoCertificate> {
        self.choose(
            hello.server_name(),
            hello.signature_schemes(),
            hello.cipher_suites(),
        )
    }

    /// Whether one of them is for this hostname, which is in lower case.
    pub fn cover(&self, host: &str) -> bool {
        self.by_name.walk(host, |_| Some(())).is_some()
    }

    fn verifiable(
        &self,
        certificate: &Certificate,
        schemes: &[SignatureScheme],
        suites: &[CipherSuite],
    ) -> bool {
        let key = &certificate.key().key;
        key.choose_scheme(schemes).is_some()
            && self.suites.iter().any(|own| {
                suites.contains(&own.suite()) && own.usable_for_signature_algorithm(key.algorithm())
            })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose_for(&hello)
            .ok()
            .map(|certificate| Arc::clone(certificate.key()))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(&self.all).finish()
    }
}

impl fmt::Debug for TlsService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("TlsService");
        debug
            .field("certificates", &self.certificates)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tls::TlsVersions;
    use crate::model::tls::test_certificate as certificate;

    use rustls::CipherSuite as Suite;
    use rustls::SignatureScheme as Scheme;

    const MODERN: &[Scheme] = &[Scheme::ECDSA_NISTP256_SHA256, Scheme::RSA_PSS_SHA256];
    const RSA: &[Scheme] = &[Scheme::RSA_PSS_SHA256, Scheme::RSA_PKCS1_SHA256];
    const V1_3: &[Suite] = &[Suite::TLS13_AES_128_GCM_SHA256];
    const V1_2: &[Suite] = &[
        Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ];
    const V1_2_RSA: &[Suite] = &[Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];

    fn tls(certificates: Vec<Arc<Certificate>>) -> ListenerTls {
        ListenerTls::new(certificates).unwrap()
    }

    #[test]
    fn a_client_gets_the_certificate_for_its_name_and_its_abilities() {
        let default = certificate(&["default.example"], true);
        let shop = certificate(&["shop.example"], true);
        let cheap = certificate(&["shop.example", "www.shop.example"], false);
        let wild = certificate(&["*.example"], true);
        let all = tls(vec![default.clone(), shop.clone(), cheap.clone(), wild.clone()]);
        let certificates = Certificates::new(&all, &Managed::new());
        for (name, schemes, suites, expected) in [
            (Some("shop.example"), MODERN, V1_3, &cheap),
            (Some("shop.example"), RSA, V1_3, &shop),
            (Some("shop.example"), MODERN, V1_2, &cheap),
            (Some("shop.example"), MODERN, V1_2_RSA, &shop),
            (Some("www.shop.example"), MODERN, V1_3, &cheap),
            // Better a certificate for another name than none: the client will say what it thinks of it.
            (Some("www.shop.example"), RSA, V1_3, &default),
            (Some("other.example"), MODERN, V1_3, &wild),
            (Some("a.b.example"), MODERN, V1_3, &default),
            (None, MODERN, V1_3, &default),
        ] {
            let chosen = certificates.choose(name, schemes, suites).unwrap();
            assert!(Arc::ptr_eq(chosen, expected), "{name:?} {schemes:?}: {chosen:?}");
        }
        let none = certificates.choose(None, &[Scheme::ED25519], V1_3);
        assert_eq!(none.unwrap_err(), NoCertificate::NothingInCommon);
        assert!(certificates.cover("shop.example") && certificates.cover("x.example"));
        assert!(!certificates.cover("a.b.example"));
    }

    #[test]
    fn a_strict_listener_has_no_default_and_versions_count() {
        let mut strict = tls(vec![certificate(&["a.example"], false)]);
        strict.strict_sni = true;
        let certificates = Certificates::new(&strict, &Managed::new());
        assert!(certificates.choose(Some("a.example"), MODERN, V1_3).is_ok());
        for name in [Some("b.example"), None] {
            let none = certificates.choose(name, MODERN, V1_3).unwrap_err();
            assert_eq!(none, NoCertificate::UnknownName);
        }
        // The name is known, the client is not able.
        let none = certificates.choose(Some("a.example"), RSA, V1_3).unwrap_err();
        assert_eq!(none, NoCertificate::NothingInCommon);

        strict.versions = TlsVersions::between(TlsVersion::V1_2, TlsVersion::V1_2).unwrap();
        let certificates = Certificates::new(&strict, &Managed::new());
        let none = certificates.choose(Some("a.example"), MODERN, V1_3).unwrap_err();
        assert_eq!(none, NoCertificate::NothingInCommon);
        assert!(certificates.choose(Some("a.example"), MODERN, V1_2).is_ok());
    }

    #[test]
    fn of_the_defaults_names_the_cheap_one_goes_first() {
        let rsa = certificate(&["a.example"], true);
        let cheap = certificate(&["a.example"], false);
        let other = certificate(&["b.example"], false);
        let all = tls(vec![rsa.clone(), other, cheap.clone()]);
        let certificates = Certificates::new(&all, &Managed::new());
        assert!(Arc::ptr_eq(
            certificates.choose(None, MODERN, V1_3).unwrap(),
            &cheap
        ));
        assert!(Arc::ptr_eq(certificates.choose(None, RSA, V1_3).unwrap(), &rsa));
    }

    #[test]
    fn a_certificate_that_is_not_there_yet_is_awaited_or_stood_in_for() {
        let name = |text: &str| ManagedName::parse(text).unwrap();
        let names = vec![name("a.example"), name("b.example"), name("*.c.example")];
        let got = certificate(&["a.example"], false);
        let own = certificate(&["own.example"], false);
        let some = Managed::from([(name("a.example"), got.clone())]);
        let tls = |own: &[&Arc<Certificate>], strict| {
            let own = own.iter().map(|one| Arc::clone(one)).collect();
            let mut tls = ListenerTls::managing(own, names.clone()).unwrap();
            tls.strict_sni = strict;
            tls
        };
        use NoCertificate::{NotYet, UnknownName};
        for (tls, managed, asked, expected) in [
            (tls(&[], false), &Managed::new(), Some("a.example"), Err(NotYet)),
            (tls(&[], false), &Managed::new(), Some("x.example"), Err(NotYet)),
            (tls(&[], false), &Managed::new(), None, Err(NotYet)),
            (tls(&[], false), &some, Some("a.example"), Ok(&got)),
            (tls(&[], false), &some, Some("b.example"), Err(NotYet)),
            (tls(&[], false), &some, Some("x.c.example"), Err(NotYet)),
            (tls(&[], false), &some, Some("x.example"), Ok(&got)),
            (tls(&[], true), &some, Some("b.example"), Err(NotYet)),
            (tls(&[], true), &some, Some("x.example"), Err(UnknownName)),
            (tls(&[&own], false), &some, Some("b.example"), Ok(&own)),
            (tls(&[&own], false), &some, Some("a.example"), Ok(&got)),
            (tls(&[&own], true), &some, Some("b.example"), Err(NotYet)),
        ] {
            let certificates = Certificates::new(&tls, managed);
            let chosen = certificates.choose(asked, MODERN, V1_3);
            assert_eq!(chosen, expected, "{asked:?} strict {}", tls.strict_sni);
        }
    }
}
