//! Certificates by ACME, in the file's shape.

use schemars::JsonSchema;
use serde::Deserialize;

use super::text::DurationText;
use crate::config::place::Placed;

/// How certificates are got by ACME (RFC 8555), for listeners that leave names to it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAcme {
    /// Where the authority says what it offers. Default: `https://acme-v02.api.letsencrypt.org/directory`.
    pub directory: Option<Placed<String>>,
    /// Whether you agree to the authority's terms of service. Without `true` it gives nothing.
    pub terms_agreed: Placed<bool>,
    /// Mail addresses that the authority may write to: `ops@example.com`. Default: none.
    pub contact: Option<Vec<Placed<String>>>,
    /// Where account, certificates and keys are kept: a directory, for this user alone. Relative to this file. Replicas may share it. This or `secrets` is required.
    pub store: Option<Placed<String>>,
    /// Keep them in Secrets of a cluster, with `tidegate run --kubernetes`, which all replicas share. Instead of `store`.
    pub secrets: Option<Placed<RawAcmeSecrets>>,
    /// Who may have signed the authority's own certificate: PEM files. Relative to this file, watched. Default: the system's roots.
    pub ca: Option<Placed<Vec<Placed<String>>>>,
    /// How it is shown that a name is ours. Default: http-01.
    pub challenge: Option<Placed<RawChallenge>>,
    /// The command that sets and takes away records, for `dns-01`.
    pub dns_hook: Option<Placed<RawDnsHook>>,
    /// The account of another kind that the authority wants this one to belong to. Default: none.
    pub external_account: Option<RawExternalAccount>,
}

/// Secrets in which account, certificates and keys are kept.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAcmeSecrets {
    /// The namespace that they are in. Default: that of the service account, or of the kubeconfig's context.
    pub namespace: Option<Placed<String>>,
}

/// How it is shown that a name is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum RawChallenge {
    /// By an answer on port 80 of the name, which a listener in clear text gives.
    #[serde(rename = "http-01")]
    Http,
    /// By a handshake on port 443 of the name, which a listener with TLS makes.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn,
    /// By a record in DNS; the only one for wildcards.
    #[serde(rename = "dns-01")]
    Dns,
}

/// The command that sets and takes away records.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawDnsHook {
    /// The program, an absolute path, and its first arguments; `add` or `remove`, the record's name and its value follow.
    pub command: Placed<Vec<Placed<String>>>,
    /// How long it may take. Default: 1m.
    pub timeout: Option<DurationText>,
    /// How long after it the record is taken to be seen everywhere. Default: 30s.
    pub settle: Option<DurationText>,
}

/// The account of another kind that the authority wants this one to belong to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawExternalAccount {
    /// The name of the key, as the authority gave it.
    pub key_id: Placed<String>,
    /// A file with the key in base64, as the authority gave it. Relative to this file, watched.
    pub key_file: Placed<String>,
}

/// Names whose certificates are got by ACME.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawListenerAcme {
    /// Hostnames, and with `dns-01` wildcards. Each gets a certificate of its own.
    pub names: Placed<Vec<Placed<String>>>,
}
