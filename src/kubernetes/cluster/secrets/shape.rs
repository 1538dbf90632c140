//! How what is kept looks as a Secret: its name, its labels, its data, and the way back.
//!
//! ```text
//! tidegate-acme-1f2e3d4c-cert.shop.example.com    kubernetes.io/tls: tls.crt, tls.key
//! tidegate-acme-1f2e3d4c-wild.example.com         the same of *.example.com
//! tidegate-acme-1f2e3d4c-notes.shop.example.com   tidegate.dev/acme: notes.json (and -wildnotes.)
//! tidegate-acme-1f2e3d4c-answer-9f86d081884c7d65  tidegate.dev/acme: answer.json
//! tidegate-acme-1f2e3d4c-account                  tidegate.dev/acme: account.json
//! ```
//! `1f2e3d4c` is of the authority's URL. All have labels that tell whose they are, and annotations with what no name and no label
//! may have in it: the URL, the hostname with its `*.`, the token. A Secret is known by its name alone; what else it says of itself
//! somebody may have edited.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::acme::vault::{Key, MAX_BYTES, Token};
use crate::model::ManagedName;
use crate::model::acme::DirectoryUrl;

/// Says whose a Secret is, with the authority as its value.
pub const AUTHORITY: &str = "tidegate.dev/acme-authority";
/// Says what it is for: `account`, `certificate`, `notes`, `answer`.
const USE: &str = "tidegate.dev/acme-use";
/// The authority's URL, the hostname, the token, as annotations.
const DIRECTORY: &str = "tidegate.dev/acme-directory";
const HOSTNAME: &str = "tidegate.dev/acme-hostname";
const TOKEN: &str = "tidegate.dev/acme-token";
/// The type of Secrets that are for Tidegate alone.
const TYPE: &str = "tidegate.dev/acme";
/// Bytes of a hostname beyond which its hash stands in a Secret's name, which has at most 253.
const MAX_PLAIN: usize = 200;

/// How the Secrets of one authority look.
#[derive(Clone, Debug)]
pub struct Shape {
    directory: DirectoryUrl,
    /// The label's value.
    authority: String,
    /// How all names begin.
    prefix: String,
}

/// A Secret as it is read. What is in it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Its version, as the API server writes it.
    pub version: String,
    /// The token that it says it is the answer for.
    pub token: Option<Token>,
    /// What is kept in it, or why that cannot be used.
    pub bytes: Result<Vec<u8>, String>,
}

#[derive(Deserialize)]
struct RawSecret {
    metadata: RawMeta,
    #[serde(default, deserialize_with = "or_default")]
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta {
    name: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
}

/// The API server writes `null` where there is nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

impl Shape {
    /// Of an authority.
    pub fn new(directory: &DirectoryUrl) -> Self {
        // A label has at most 63 letters, digits, dots and hyphens, no dot or hyphen at its ends; an IPv6 address has colons.
        let plain = |letter: char| match letter {
            'a'..='z' | '0'..='9' | '.' | '-' => letter,
            'A'..='Z' => letter.to_ascii_lowercase(),
            _ => '-',
        };
        let host: String = directory.host().chars().map(plain).take(50).collect();
        let host = host.trim_matches(['.', '-']);
        let hash = directory.short_hash();
        Self {
            prefix: format!("tidegate-acme-{hash}"),
            authority: match host.is_empty() {
                true => hash,
                false => format!("{host}-{hash}"),
            },
            directory: directory.clone(),
        }
    }

    /// The label by which all of them are found, as a selector in a query.
    pub fn selector(&self) -> String {
        // Nothing in it has to be escaped but these.
        let label = AUTHORITY.replace('/', "%2F");
        format!("labelSelector={label}%3D{}", self.authority)
    }

    /// The name of the Secret for something.
    pub fn name(&self, key: &Key) -> String {
        let of = |plain: &str, wild: &str, name: &ManagedName| {
            let kind = if name.is_wildcard() { wild } else { plain };
            match name.base() {
                long if long.len() > MAX_PLAIN => format!("{kind}-{}", hash(long.as_bytes(), 20)),
                base => format!("{kind}.{base}"),
            }
        };
        let end = match key {
            Key::Account => "account".to_owned(),
            Key::Certificate(name) => of("cert", "wild", name),
            Key::Notes(name) => of("notes", "wildnotes", name),
            Key::Answer(token) => {
                return format!("{}{}", self.answers(), hash(token.as_str().as_bytes(), 8));
            }
        };
        format!("{}-{end}", self.prefix)
    }

    /// How the names of all answers begin.
    pub fn answers(&self) -> String {
        format!("{}-answer-", self.prefix)
    }

    /// The Secret of something: what is to be in it, in the form of a merge patch (RFC 7386) or a new one. `version`: the one that
    /// it takes the place of.
    pub fn secret(&self, key: &Key, bytes: &[u8], version: Option<&str>) -> Value {
        let (what, kind) = match key {
            Key::Account => ("account", TYPE),
            Key::Certificate(_) => ("certificate", "kubernetes.io/tls"),
            Key::Notes(_) => ("notes", TYPE),
            Key::Answer(_) => ("answer", TYPE),
        };
        let mut annotations = json!({DIRECTORY: self.directory.as_str()});
        match key {
            Key::Certificate(name) | Key::Notes(name) => annotations[HOSTNAME] = json!(name.to_string()),
            Key::Answer(token) => annotations[TOKEN] = json!(token.as_str()),
            Key::Account => {}
        }
        let data = match key {
            Key::Certificate(_) => {
                let (chain, own) = bytes.split_at(start_of_key(bytes));
                json!({"tls.crt": BASE64.encode(chain), "tls.key": BASE64.encode(own)})
            }
            _ => json!({format!("{what}.json"): BASE64.encode(bytes)}),
        };
        let mut secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": self.name(key),
                "labels": {
                    "app.kubernetes.io/managed-by": "tidegate",
                    AUTHORITY: self.authority,
                    USE: what,
                },
                "annotations": annotations,
            },
            "data": data,
        });
        match version {
            Some(version) => secret["metadata"]["resourceVersion"] = json!(version),
            // It cannot be changed.
            None => secret["type"] = json!(kind),
        }
        secret
    }
}

impl Record {
    /// Reads a Secret.
    ///
    /// # Errors
    /// It is none at all. One that was edited into nonsense is read, with what is wrong as its content.
    pub fn read(text: &str) -> Result<Self, serde_json::Error> {
        let RawSecret { metadata, data } = serde_json::from_str(text)?;
        let token = metadata.annotations.get(TOKEN);
        Ok(Self {
            token: token.and_then(|token| Token::new(token)),
            bytes: bytes(&data),
            name: metadata.name,
            version: metadata.resource_version,
        })
    }
}

/// What is kept in a Secret's data.
fn bytes(data: &BTreeMap<String, String>) -> Result<Vec<u8>, String> {
    let part = |name: &str| {
        let encoded = data
            .get(name)
            .ok_or_else(|| format!("there is no {name} in it"))?;
        // Twice as much in base64 is too much for certain, and is not decoded.
        if encoded.len() > 2 * MAX_BYTES {
            return Err(format!("{name} is larger than {} KiB", MAX_BYTES / 1024));
        }
        BASE64
            .decode(encoded.as_bytes())
            .map_err(|_| format!("{name} is not base64"))
    };
    let is_pair = data.contains_key("tls.crt") || data.contains_key("tls.key");
    let own = data.keys().find(|name| name.ends_with(".json"));
    let bytes = match own.filter(|_| !is_pair) {
        Some(name) => part(name)?,
        None => [part("tls.crt")?, b"\n".to_vec(), part("tls.key")?].concat(),
    };
    match bytes.len() > MAX_BYTES {
        true => Err(format!("it is larger than {} KiB", MAX_BYTES / 1024)),
        false => Ok(bytes),
    }
}

/// Where the key begins in a certificate as it is kept: its block is the last one.
fn start_of_key(bytes: &[u8]) -> usize {
    memchr::memmem::rfind(bytes, b"-----BEGIN ").unwrap_or(bytes.len())
}

/// The first bytes of a hash, in hexadecimal digits.
fn hash(text: &[u8], bytes: usize) -> String {
    let hash = digest::digest(&digest::SHA256, text);
    HEXLOWER.encode(&hash.as_ref()[..bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tls::test_pair;

    fn shape() -> Shape {
        Shape::new(&DirectoryUrl::parse("https://ca.example/dir").unwrap())
    }

    fn name(text: &str) -> ManagedName {
        ManagedName::parse(text).unwrap()
    }

    /// What the API server takes for a name (RFC 1123).
    fn is_legal(name: &str) -> bool {
        let edge = |letter: Option<char>| letter.is_some_and(|it| it.is_ascii_alphanumeric());
        name.len() <= 253
            && name.split('.').all(|label| {
                edge(label.chars().next())
                    && edge(label.chars().last())
                    && label
                        .chars()
                        .all(|letter| matches!(letter, 'a'..='z' | '0'..='9' | '-'))
            })
    }

    #[test]
    fn names_are_legal_and_tell_everything_apart() {
        let long = format!("{}.example", ["x".repeat(60).as_str(); 4].join("."));
        let hosts = [
            "a.example",
            "*.a.example",
            "wild.a.example",
            "cert.a.example",
            &long,
        ];
        let mut keys = vec![Key::Account];
        for host in hosts {
            keys.extend([Key::Certificate(name(host)), Key::Notes(name(host))]);
        }
        keys.extend(["t", "T", "a_-b"].map(|token| Key::Answer(Token::new(token).unwrap())));
        let names: std::collections::BTreeSet<String> = keys.iter().map(|key| shape().name(key)).collect();
        assert_eq!(names.len(), keys.len(), "{names:?}");
        for name in &names {
            assert!(is_legal(name), "{name}");
        }
        let other = Shape::new(&DirectoryUrl::parse("https://ca.example/other").unwrap());
        assert_ne!(other.name(&Key::Account), shape().name(&Key::Account));
    }

    #[test]
    fn labels_are_legal_whatever_the_authority() {
        let long = format!("https://{}.example/dir", ["x".repeat(60).as_str(); 4].join("."));
        for url in [
            "https://[::1]:14000/dir",
            "https://127.0.0.1/dir",
            &long,
            "https://CA.example/",
        ] {
            let shape = Shape::new(&DirectoryUrl::parse(url).unwrap());
            let secret = shape.secret(&Key::Account, b"{}", None);
            for (_, value) in secret["metadata"]["labels"].as_object().unwrap() {
                let value = value.as_str().unwrap();
                assert!(value.len() <= 63 && is_legal(value), "{url}: {value}");
            }
            assert!(is_legal(&shape.name(&Key::Account)));
            let selector = shape.selector();
            assert!(selector.bytes().all(|byte| byte.is_ascii_graphic()), "{selector}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (chain, key) = test_pair(&["*.a.example"], false);
        let pair = format!("{}\n{}\n", chain.trim_end(), key.trim_end());
        for (key, bytes) in [
            (Key::Account, "{\"a\":1}"),
            (Key::Notes(name("a.example")), "{}"),
            (Key::Answer(Token::new("t0ken").unwrap()), "{\"token\":\"t0ken\"}"),
            (Key::Certificate(name("*.a.example")), &pair),
        ] {
            let mut secret = shape().secret(&key, bytes.as_bytes(), None);
            secret["metadata"]["resourceVersion"] = json!("7");
            let record = Record::read(&secret.to_string()).unwrap();
            assert_eq!((record.name, record.version.as_str()), (shape().name(&key), "7"));
            let read = String::from_utf8(record.bytes.unwrap()).unwrap();
            assert_eq!(read.replace("\n\n", "\n"), bytes);
            assert_eq!(record.token.is_some(), matches!(key, Key::Answer(_)));
            assert!(shape().secret(&key, b"", Some("7")).get("type").is_none());
        }
        let secret = shape().secret(&Key::Certificate(name("*.a.example")), pair.as_bytes(), None);
        assert_eq!(secret["type"], "kubernetes.io/tls");
        let text = |part: &str| {
            let encoded = secret["data"][part].as_str().unwrap();
            String::from_utf8(BASE64.decode(encoded.as_bytes()).unwrap()).unwrap()
        };
        assert!(text("tls.crt").contains("BEGIN CERTIFICATE") && !text("tls.crt").contains("PRIVATE"));
        assert!(text("tls.key").starts_with("-----BEGIN PRIVATE KEY"));
        assert_eq!(secret["metadata"]["annotations"][HOSTNAME], "*.a.example");
    }

    #[test]
    fn what_was_edited_into_nonsense_is_told_without_its_content() {
        for (data, expected) in [
            (json!(null), "there is no tls.crt in it"),
            (json!({"tls.crt": ""}), "there is no tls.key in it"),
            (
                json!({"tls.crt": "geheim%", "tls.key": ""}),
                "tls.crt is not base64",
            ),
            (json!({"notes.json": "geheim%"}), "notes.json is not base64"),
            (
                json!({"notes.json": "A".repeat(3 * MAX_BYTES)}),
                "notes.json is larger than 256 KiB",
            ),
        ] {
            let secret = json!({"metadata": {"name": "n"}, "data": data});
            let record = Record::read(&secret.to_string()).unwrap();
            assert_eq!(record.bytes.unwrap_err(), expected);
        }
        assert!(Record::read("{\"metadata\": {}}").is_err());
    }
}
