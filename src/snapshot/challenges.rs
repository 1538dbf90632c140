//! What authorities are answered that ask whether a name is ours (ACME). There is a table only while orders run, so that
//! for all other requests and handshakes the question costs a look at an empty pointer.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::Method;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::model::tls::{AlpnAnswer, provider};
use crate::model::{Challenges, DirectResponse};

/// Where tokens are asked for (RFC 8555 §8.3).
const HTTP_PREFIX: &str = "/.well-known/acme-challenge/";
/// What is spoken by an authority that asks in a handshake (RFC 8737 §4); it speaks nothing else.
const ALPN: &[u8] = b"acme-tls/1";

/// What authorities are answered while orders run.
pub struct ChallengeTable {
    http: HashMap<Arc<str>, DirectResponse>,
    alpn: HashMap<Arc<str>, Arc<ServerConfig>>,
}

impl ChallengeTable {
    /// Of what the source says; none when there is nothing to answer.
    pub(super) fn of(challenges: &Challenges) -> Option<Arc<Self>> {
        if challenges.is_empty() {
            return None;
        }
        let http = challenges.http.iter();
        let alpn = challenges.alpn.iter().filter_map(|(name, answer)| {
            let made = config(answer)
                .map_err(|error| tracing::error!(%name, %error, "the challenge cannot be answered"));
            Some((Arc::clone(name), Arc::new(made.ok()?)))
        });
        Some(Arc::new(Self {
            http: http
                .map(|(token, answer)| (Arc::clone(token), answer.clone()))
                .collect(),
            alpn: alpn.collect(),
        }))
    }

    /// What is answered to a request in clear text, if it is one of an authority. Whom it names as host does not matter:
    /// who knows the token may hear the answer.
    pub fn http(&self, method: &Method, path: &str) -> Option<&DirectResponse> {
        let token = path.strip_prefix(HTTP_PREFIX)?;
        let reads = method == Method::GET || method == Method::HEAD;
        reads.then(|| self.http.get(token)).flatten()
    }

    /// What the library needs for a handshake, if it is one of an authority.
    pub fn alpn(&self, hello: &ClientHello<'_>) -> Option<&Arc<ServerConfig>> {
        let mut spoken = hello.alpn()?;
        let only = spoken.next() == Some(ALPN) && spoken.next().is_none();
        only.then(|| self.alpn.get(hello.server_name()?)).flatten()
    }
}

fn config(answer: &AlpnAnswer) -> Result<ServerConfig, rustls::Error> {
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(provider())).with_safe_default_protocol_versions()?;
    let mut config = builder
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(Arc::clone(&answer.0))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The one certificate of a challenge.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl fmt::Debug for ChallengeTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChallengeTable")
            .field("http", &self.http.len())
            .field("alpn", &self.alpn.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::StatusCode;

    #[test]
    fn a_token_is_answered_where_it_is_asked_for_and_nowhere_else() {
        assert!(ChallengeTable::of(&Challenges::default()).is_none());
        let mut challenges = Challenges::default();
        challenges.http.insert(
            "token".into(),
            DirectResponse {
                status: StatusCode::OK,
                headers: Vec::new(),
                body: Bytes::from_static(b"token.thumbprint"),
            },
        );
        let table = ChallengeTable::of(&challenges).unwrap();
        for (method, path, answered) in [
            (Method::GET, "/.well-known/acme-challenge/token", true),
            (Method::HEAD, "/.well-known/acme-challenge/token", true),
            (Method::POST, "/.well-known/acme-challenge/token", false),
            (Method::GET, "/.well-known/acme-challenge/token/", false),
            (Method::GET, "/.well-known/acme-challenge/other", false),
            (Method::GET, "/.well-known/acme-challenge/", false),
            (Method::GET, "/token", false),
        ] {
            assert_eq!(table.http(&method, path).is_some(), answered, "{method} {path}");
        }
    }
}
