//! The sidecar's own: how the connections of a pod's app come to Tidegate without the app's knowing.
//!
//! [`redirect`] is what is redirected and what is not, checked. [`nft`] and [`iptables`] turn it into rules, as text and
//! purely; [`apply`] has the system's tools read that text. What happens to a connection that was redirected is not
//! here but where connections are served (`src/downstream/redirected.rs`).

pub mod apply;
pub mod iptables;
pub mod nft;
pub mod redirect;
