//! Telemetry: why every exchange ended, and where that is written: metrics, the access log.
//!
//! This room knows no other. The data plane fills its plain structs; nothing here decides anything.

pub mod access_log;
pub mod detection;
pub mod exposition;
pub mod gates;
pub mod handshake;
pub mod histogram;
pub mod metrics;
pub mod mtls;
pub mod outcome;
pub mod process;
pub mod record;

pub use access_log::{AccessLog, AccessLogHandle};
pub use exposition::Exposition;
pub use gates::Gates;
pub use handshake::HandshakeEnd;
pub use metrics::{BackendMetrics, ListenerMetrics, Metrics};
pub use outcome::Outcome;
pub use record::ExchangeRecord;
