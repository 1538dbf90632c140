//! `v1 Secret`: its type, and the certificate in it. Nothing else of its data is kept.

use std::sync::Arc;
use std::time::SystemTime;

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer};

use super::Meta;
use super::scalar::or_default;
use crate::model::Certificate;
use crate::model::tls::Origin;

/// `v1 Secret`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Secret {
    pub metadata: Meta,
    pub r#type: Option<Box<str>>,
    /// The certificate with its key, or why they cannot be used; none where there are no `tls.crt` and `tls.key`.
    pub pair: Option<Result<Arc<Certificate>, Arc<str>>>,
}

/// What is read, and thrown away once the pair is parsed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSecret {
    metadata: Meta,
    #[serde(default)]
    r#type: Option<Box<str>>,
    #[serde(default, deserialize_with = "or_default")]
    data: Data,
    #[serde(default, deserialize_with = "or_default")]
    string_data: Data,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    #[serde(rename = "tls.crt")]
    certificate: Option<String>,
    #[serde(rename = "tls.key")]
    key: Option<String>,
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawSecret::deserialize(deserializer)?;
        let origin = Origin::Named(format!("Secret {}", raw.metadata.name).into());
        // As the API server has it: what is written as text goes before what is written in base64.
        let certificate = part("tls.crt", raw.data.certificate, raw.string_data.certificate);
        let key = part("tls.key", raw.data.key, raw.string_data.key);
        let pair = match (certificate, key) {
            (None, None) => None,
            (None, Some(_)) => Some(Err("there is no tls.crt in it".to_owned())),
            (Some(_), None) => Some(Err("there is no tls.key in it".to_owned())),
            (Some(certificate), Some(key)) => Some(certificate.and_then(|certificate| {
                Certificate::from_pem(origin, &certificate, &key?, SystemTime::now())
                    .map_err(|error| error.to_string())
            })),
        };
        Ok(Self {
            metadata: raw.metadata,
            r#type: raw.r#type,
            pair: pair.map(|pair| pair.map(Arc::new).map_err(Arc::from)),
        })
    }
}

/// The bytes of a part, or why they cannot be had; none where there is nothing.
fn part(name: &str, encoded: Option<String>, plain: Option<String>) -> Option<Result<Vec<u8>, String>> {
    if let Some(plain) = plain {
        return Some(Ok(plain.into_bytes()));
    }
    let mut encoded = encoded?.into_bytes();
    encoded.retain(|byte| !byte.is_ascii_whitespace());
    Some(
        BASE64
            .decode(&encoded)
            .map_err(|_| format!("{name} is not base64")),
    )
}
