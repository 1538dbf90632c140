//! How certificates are got by ACME (RFC 8555), as the user asked for it. Who wants which is said by listeners
//! ([`ListenerTls::managed`](super::ListenerTls::managed)).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use http::Uri;

use super::UpstreamTls;

/// An account at an authority, and how it is dealt with.
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    /// Where the authority says what it offers.
    pub directory: DirectoryUrl,
    /// Whom to trust on the way there.
    pub tls: UpstreamTls,
    /// Whom the authority may write to: `mailto:ops@example.com`.
    pub contact: Vec<String>,
    /// How it is shown that a name is ours.
    pub challenge: ChallengeKind,
    /// Where account, certificates and keys are kept. Replicas that share it share all of that.
    pub store: AcmeStore,
    /// The account of another kind that this one belongs to, where the authority wants that.
    pub external_account: Option<ExternalAccount>,
    /// How quickly things follow each other.
    pub pace: Pace,
}

/// Where account, certificates and keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcmeStore {
    /// In a directory.
    Directory(PathBuf),
    /// In Secrets of a namespace of the cluster that is followed.
    Secrets {
        /// None: our own.
        namespace: Option<Arc<str>>,
    },
}

/// Where an authority says what it offers: an absolute `https` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryUrl {
    text: Arc<str>,
    host: Arc<str>,
}

/// Why a text is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryUrlError {
    /// It cannot be read.
    #[error("{0:?} is not a URL")]
    NoUrl(String),
    /// It is not `https`.
    #[error("{0:?} is not https, which ACME needs (RFC 8555 §6.1)")]
    NotHttps(String),
}

impl DirectoryUrl {
    /// Reads `https://acme-v02.api.letsencrypt.org/directory`.
    ///
    /// # Errors
    /// It is no absolute `https` URL.
    pub fn parse(text: &str) -> Result<Self, DirectoryUrlError> {
        let uri: Uri = text
            .parse()
            .map_err(|_| DirectoryUrlError::NoUrl(text.to_owned()))?;
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| DirectoryUrlError::NoUrl(text.to_owned()))?;
        if uri.scheme_str() != Some("https") {
            return Err(DirectoryUrlError::NotHttps(text.to_owned()));
        }
        Ok(Self {
            text: text.into(),
            host: host.trim_start_matches('[').trim_end_matches(']').into(),
        })
    }

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host in it, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Eight hexadecimal digits that tell it from others of its host.
    pub fn short_hash(&self) -> String {
        let hash = digest::digest(&digest::SHA256, self.text.as_bytes());
        let hash = hash.as_ref().first_chunk::<4>().copied().unwrap_or_default();
        format!("{:08x}", u32::from_be_bytes(hash))
    }
}

/// How it is shown that a name is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChallengeKind {
    /// By an answer on port 80 (RFC 8555 §8.3).
    Http,
    /// By a handshake on port 443 (RFC 8737).
    TlsAlpn,
    /// By a record in DNS (RFC 8555 §8.4), which a command of the user's sets and takes away.
    Dns(DnsHook),
}

impl ChallengeKind {
    /// As it is written.
    pub const fn text(&self) -> &'static str {
        match self {
            Self::Http => "http-01",
            Self::TlsAlpn => "tls-alpn-01",
            Self::Dns(_) => "dns-01",
        }
    }
}

/// A command that sets and takes away records of DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsHook {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// What it is given before `add NAME VALUE` or `remove NAME VALUE`.
    pub arguments: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    /// How long after it the record is taken to be seen everywhere.
    pub settle: Duration,
}

/// An account of another kind (RFC 8555 §7.3.4). Its key is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    /// The name of the key at the authority.
    pub key_id: String,
    /// The file that the key was read from.
    pub key_file: PathBuf,
    /// The key, as bytes.
    pub key: Arc<[u8]>,
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ExternalAccount")
            .field("key_id", &self.key_id)
            .field("key_file", &self.key_file)
            .finish_non_exhaustive()
    }
}

/// How quickly things follow each other. No file says it; tests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks into the store, where other replicas may have put something.
    pub look: Duration,
    /// From an answer's being in the store to the authority's being told to ask for it: all replicas have it by then.
    pub spread: Duration,
    /// For how long a replica that died keeps the lock of Secrets (a Lease): whole seconds. What the kernel locks is free at once.
    pub lease: Duration,
    /// After the first failure of the way to the authority, or of its own; doubled with each.
    pub unwell: Duration,
    /// After the first refusal; doubled with each. Let's Encrypt allows five failures per name and hour.
    pub refused: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(1),
            spread: Duration::from_secs(3),
            lease: Duration::from_secs(15),
            unwell: Duration::from_secs(10),
            refused: Duration::from_secs(300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_an_https_url() {
        let url = DirectoryUrl::parse("https://[::1]:14000/dir").unwrap();
        assert_eq!((url.as_str(), url.host()), ("https://[::1]:14000/dir", "::1"));
        for (text, words) in [
            ("http://ca.example/dir", "not https"),
            ("ca.example/dir", "not a URL"),
            ("/dir", "not a URL"),
            ("https://", "not a URL"),
            ("", "not a URL"),
        ] {
            let error = DirectoryUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_key_of_an_external_account_is_not_printed() {
        let account = ExternalAccount {
            key_id: "kid".to_owned(),
            key_file: "/run/key".into(),
            key: b"secret".as_slice().into(),
        };
        let shown = format!("{account:?}");
        assert!(
            shown.contains("kid") && !shown.contains("115") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
