//! mTLS between sidecars in the file's shape.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::place::Placed;

/// Who this process is towards other sidecars, and whom it believes: a SPIFFE certificate, its key and a trust bundle.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawIdentity {
    /// A directory with `tls.crt`, `tls.key` and `ca.crt`. Relative to this file, watched. Default: none, then each file is named.
    pub directory: Option<Placed<String>>,
    /// The chain, the own certificate first. Relative to this file, watched. Default: `tls.crt` of the directory.
    pub cert: Option<Placed<String>>,
    /// The private key. Relative to this file, watched. Default: `tls.key` of the directory.
    pub key: Option<Placed<String>>,
    /// Who may have signed the certificates of others. Relative to this file, watched. Default: `ca.crt` of the directory.
    pub ca: Option<Placed<String>>,
    /// Ask an agent on this host instead, by SPIFFE's Workload API: `unix:///run/spire/agent.sock`. Takes effect at a restart. Default: none.
    pub workload_api: Option<Placed<String>>,
}

/// Whether those who connect show who they are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawInboundMtls {
    /// Whether clear text is taken too.
    pub mode: Placed<RawMtlsMode>,
    /// Who may connect by mTLS: `spiffe://example.org/ns/shop/sa/web`, `/ns/shop/*` of our own trust domain. Default: `[/*]`, all of it.
    pub allow: Option<Placed<Vec<Placed<String>>>>,
    /// Ports that clients ask for on which everything is as without it: those of probes. Default: none.
    pub plain_ports: Option<Vec<Placed<u32>>>,
}

/// Whether clear text is taken beside mTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawMtlsMode {
    /// There is no mTLS.
    Off,
    /// It is, and TLS of the app's own too.
    Permissive,
    /// It is not.
    Strict,
}

/// Connections go by mTLS to the endpoints' sidecars.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawOutboundMtls {
    /// Who has to be there, one of these: `spiffe://example.org/ns/shop/sa/web`, `/ns/shop/*` of our own trust domain. Default: `[/*]`, all of it.
    pub peers: Option<Placed<Vec<Placed<String>>>>,
}
