//! From the answers in the store to what the data plane gives.

use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderName, StatusCode};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::store::Answer;
use crate::model::tls::{AlpnAnswer, provider};
use crate::model::{Challenges, DirectResponse};

/// By an answer in clear text (RFC 8555 §8.3).
pub(super) const HTTP: &str = "http-01";
/// By a handshake (RFC 8737).
pub(super) const TLS_ALPN: &str = "tls-alpn-01";
/// By a record in DNS (RFC 8555 §8.4).
pub(super) const DNS: &str = "dns-01";

/// What authorities are answered. Answers by DNS are not given here.
pub(super) fn challenges(answers: &[Answer]) -> Challenges {
    let mut challenges = Challenges::default();
    for answer in answers {
        match answer.kind.as_str() {
            HTTP => {
                let said = (answer.token.as_str().into(), said(answer));
                challenges.http.extend([said]);
            }
            TLS_ALPN => match shown(answer) {
                Ok(shown) => challenges.alpn.extend([(answer.name.as_str().into(), shown)]),
                Err(error) => {
                    tracing::error!(name = %answer.name, "no certificate can be made for the challenge: {error}");
                }
            },
            _ => {}
        }
    }
    challenges
}

fn said(answer: &Answer) -> DirectResponse {
    // RFC 8555 §8.3 names the type.
    let kind: (HeaderName, HeaderValue) =
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    DirectResponse {
        status: StatusCode::OK,
        headers: vec![kind],
        body: Bytes::from(answer.key_authorization.clone()),
    }
}

/// A certificate for the name, signed by itself, with the hash of the answer (RFC 8737 §3).
fn shown(answer: &Answer) -> Result<AlpnAnswer, String> {
    let hash = digest::digest(&digest::SHA256, answer.key_authorization.as_bytes());
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let mut params = CertificateParams::new(vec![answer.name.clone()]).map_err(|error| error.to_string())?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(hash.as_ref())];
    let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| error.to_string())?;
    let chain = vec![certificate.der().clone()];
    Ok(AlpnAnswer(Arc::new(CertifiedKey::new(chain, key))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer, X509Certificate};

    #[test]
    fn answers_become_what_their_kind_wants() {
        let answer = |kind: &str, name: &str| Answer {
            kind: kind.to_owned(),
            name: name.to_owned(),
            token: format!("token-{name}"),
            key_authorization: format!("token-{name}.thumbprint"),
            since: 0,
        };
        let all = [
            answer(HTTP, "a.example"),
            answer(TLS_ALPN, "b.example"),
            answer(DNS, "c.example"),
            answer("news", "d.example"),
        ];
        let challenges = challenges(&all);
        assert_eq!((challenges.http.len(), challenges.alpn.len()), (1, 1));
        assert_eq!(
            challenges.http["token-a.example"].body,
            "token-a.example.thumbprint"
        );

        let key = &challenges.alpn["b.example"].0;
        let (_, shown) = X509Certificate::from_der(&key.cert[0]).unwrap();
        let names = shown.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 1);
        // RFC 8737 §3: critical, and an OCTET STRING with the hash.
        let proof = shown
            .extensions()
            .iter()
            .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
        let proof = proof.unwrap();
        assert!(proof.critical);
        let hash = digest::digest(&digest::SHA256, b"token-b.example.thumbprint");
        assert_eq!(
            (&proof.value[..2], &proof.value[2..]),
            (&[4, 32][..], hash.as_ref())
        );
    }
}
