//! TLS in the file's shape.

use schemars::JsonSchema;
use serde::Deserialize;

use super::acme::RawListenerAcme;
use super::text::TlsVersionText;
use crate::config::place::Placed;

/// How a listener ends TLS.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawListenerTls {
    /// Chosen by the client's name for it (SNI) and the signatures that it knows. The first one is the default. Default: none, if `acme` has names.
    pub certificates: Option<Placed<Vec<Placed<RawCertificate>>>>,
    /// Names whose certificates are got by ACME. Default: none.
    pub acme: Option<Placed<RawListenerAcme>>,
    /// The lowest version spoken. Default: "1.2".
    pub min_version: Option<TlsVersionText>,
    /// The highest version spoken. Default: "1.3".
    pub max_version: Option<TlsVersionText>,
    /// Whether clients that ask for no name, or one that no certificate has, are refused. Default: false.
    pub strict_sni: Option<Placed<bool>>,
    /// Whether clients identify themselves by a certificate. Default: they do not.
    pub client_auth: Option<RawClientAuth>,
}

/// A certificate and its private key, as PEM files.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCertificate {
    /// The chain, the server's own certificate first. Relative to this file, watched.
    pub cert: Placed<String>,
    /// The private key. Relative to this file, watched; it may be the same file.
    pub key: Placed<String>,
}

/// Whether clients identify themselves by a certificate. Who they are is told to endpoints in X-Forwarded-Client-Cert.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawClientAuth {
    /// Whether a client may come without. Default: required.
    pub mode: Option<RawClientAuthMode>,
    /// Who may have signed it: PEM files. Relative to this file, watched.
    pub ca: Placed<Vec<Placed<String>>>,
    /// Lists of certificates that were taken back: PEM files, one for each signer in a chain. Default: none.
    pub crl: Option<Vec<Placed<String>>>,
    /// Names of which its certificate must have one: `spiffe://example.org/ns/shop/*`, `dns:web.example.com`. Default: any.
    pub allow: Option<Vec<Placed<String>>>,
}

/// Whether a client may come without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawClientAuthMode {
    /// It may not.
    Required,
    /// It may; one that it shows must be good.
    Optional,
}

/// How a backend's connections use TLS.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawUpstreamTls {
    /// The name that endpoints are asked for (SNI), and that their certificate must have.
    pub hostname: Placed<String>,
    /// Who may have signed it: PEM files. Relative to this file, watched. Default: the system's roots.
    pub ca: Option<Placed<Vec<Placed<String>>>>,
    /// Names of which their certificate must have one instead: `dns:web.internal`, `spiffe://example.org/*`. Default: `hostname`.
    pub subject_alt_names: Option<Vec<Placed<String>>>,
    /// The certificate that is shown to endpoints that ask for one. Default: none.
    pub certificate: Option<Placed<RawCertificate>>,
    /// The lowest version spoken. Default: "1.2".
    pub min_version: Option<TlsVersionText>,
    /// The highest version spoken. Default: "1.3".
    pub max_version: Option<TlsVersionText>,
}
