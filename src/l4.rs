//! The fourth layer: bytes between two connections, without looking into them.
//!
//! [`relay`](mod@relay) is the life of a relayed connection; [`plan`] decides, [`record`] tells how it ended, [`answer`]
//! what it says of its endpoint. [`copy`] moves the bytes, also those of upgraded HTTP connections. [`desk`] is what all
//! connections of a worker share. [`udp`] is the same for datagrams. [`proxy_protocol`] is how proxies tell each other of a client.

pub mod answer;
pub mod arrival;
pub mod copy;
pub mod desk;
pub mod plan;
pub mod prefixed;
pub mod proxy_protocol;
pub mod record;
pub mod redirected;
pub mod relay;
pub mod udp;
