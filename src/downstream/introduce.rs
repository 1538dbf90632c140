//! The introduction: what a trusted proxy in front says of a client before the client's own bytes (PROXY protocol).
//!
//! Where a listener has it, it is mandatory: a connection from anywhere else than the trusted networks is refused before a
//! byte is read, and one from there that does not begin with a good header is, too. Taking it where it happens to be there would
//! let any client choose its own address.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::l4::proxy_protocol::{Header, MAX_HEADER, MAX_LINE, Reader, Want};
use crate::model::ProxyProtocol;
use crate::telemetry::Outcome;

/// Reads the header, and nothing beyond it. The deadline is the policy's.
///
/// # Errors
/// The outcome of a connection that is not served.
pub(super) async fn introduce(
    stream: &mut TcpStream,
    peer: SocketAddr,
    policy: &ProxyProtocol,
) -> Result<Header, Outcome> {
    let from = peer.ip().to_canonical();
    if !policy.from.iter().any(|network| network.contains(&from)) {
        return Err(Outcome::ProxyUntrusted);
    }
    match tokio::time::timeout(policy.deadline, read(stream)).await {
        Ok(Ok(header)) => Ok(header),
        Ok(Err(why)) => {
            tracing::debug!(%peer, why, "no introduction");
            Err(Outcome::ProxyHeader)
        }
        Err(_elapsed) => Err(Outcome::ProxyTimeout),
    }
}

async fn read(stream: &mut TcpStream) -> Result<Header, String> {
    let mut reader = Reader::default();
    let mut space = [0; 512];
    const { assert!(MAX_LINE <= 512 && MAX_HEADER < 1 << 16) };
    loop {
        let most = match reader.wants().map_err(|error| error.to_string())? {
            Want::Nothing(header) => return Ok(header),
            Want::Bytes(most) => most.min(space.len()),
            // Where the line ends is looked for before it is read.
            Want::Line(most) => {
                let seen = stream
                    .peek(&mut space[..most])
                    .await
                    .map_err(|error| error.to_string())?;
                memchr::memchr(b'\n', &space[..seen]).map_or(seen, |end| end + 1)
            }
        };
        let read = stream
            .read(&mut space[..most])
            .await
            .map_err(|error| error.to_string())?;
        if read == 0 {
            return Err("the connection ended within the PROXY header".to_owned());
        }
        reader.take(&space[..read]);
    }
}
