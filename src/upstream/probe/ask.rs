//! One question to one endpoint, on a connection of its own, and what is wrong with the answer.
//!
//! HTTP is asked in what is spoken with the endpoint, so that a server of HTTP/2 alone can be asked as well. The gRPC health
//! protocol (`grpc.health.v1`, grpc/doc/health-checking.md) is two messages of one field each, so they are written and
//! read here: a request is the service's name (field 1, text), an answer the status (field 1, number; 1 is `SERVING`).

use std::net::SocketAddr;
use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::model::{ActiveCheck, BackendProtocol, CheckKind, HttpCheck, ProxyVersion, UpstreamTls};
use crate::upstream::connect::{dial, introduce, shake, speaks_http2};

/// Asks once. The error says what is wrong; the caller bounds the time.
pub async fn ask(
    endpoint: SocketAddr,
    protocol: BackendProtocol,
    check: &ActiveCheck,
    tls: Option<&UpstreamTls>,
    proxy: Option<ProxyVersion>,
) -> Result<(), String> {
    let address = SocketAddr::new(endpoint.ip(), check.port.unwrap_or(endpoint.port()));
    let mut stream = dial(address, check.timeout)
        .await
        .map_err(|error| error.to_string())?;
    introduce(&mut stream, proxy.map_or(&[], ProxyVersion::own))
        .await
        .map_err(|error| error.to_string())?;
    let wanted = match check.kind {
        CheckKind::Tcp => return Ok(()),
        CheckKind::Grpc { .. } => BackendProtocol::H2c,
        CheckKind::Http(_) => protocol,
    };
    let Some(tls) = tls else {
        return question(stream, address, wanted, check, "http").await;
    };
    let stream = shake(stream, tls, wanted)
        .await
        .map_err(|error| error.to_string())?;
    let spoken = match wanted {
        BackendProtocol::Auto if speaks_http2(&stream) => BackendProtocol::H2c,
        known => known,
    };
    question(stream, address, spoken, check, "https").await
}

async fn question<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    address: SocketAddr,
    protocol: BackendProtocol,
    check: &ActiveCheck,
    scheme: &str,
) -> Result<(), String> {
    match &check.kind {
        CheckKind::Tcp => Ok(()),
        CheckKind::Http(http) => {
            let host = http
                .host
                .as_deref()
                .map_or_else(|| address.to_string(), str::to_owned);
            let request = http_request(http, scheme, &host, protocol)?;
            exchange(stream, request, protocol, |response| judge_http(http, response)).await
        }
        CheckKind::Grpc { service } => {
            let request = grpc_request(service, &address.to_string())?;
            exchange(stream, request, BackendProtocol::H2c, judge_grpc).await
        }
    }
}

/// Most bytes of an answer that are looked at.
const MAX_BODY: usize = 64 * 1024;

/// Sends a request and has its answer judged, while the connection is driven.
async fn exchange<
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    J: Future<Output = Result<(), String>>,
>(
    stream: S,
    request: Request<Full<Bytes>>,
    protocol: BackendProtocol,
    judge: impl FnOnce(Response<Incoming>) -> J,
) -> Result<(), String> {
    let io = TokioIo::new(stream);
    let broken = |error: hyper::Error| format!("the connection broke: {error}");
    match protocol {
        BackendProtocol::Http1 | BackendProtocol::Auto => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(broken)?;
            let asked = async { judge(sender.send_request(request).await.map_err(broken)?).await };
            driven(asked, connection).await
        }
        BackendProtocol::H2c => {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
            let (mut sender, connection) = handshake.map_err(broken)?;
            let asked = async { judge(sender.send_request(request).await.map_err(broken)?).await };
            driven(asked, connection).await
        }
    }
}

/// The judgement; it may still come when the connection has ended.
async fn driven(
    asked: impl Future<Output = Result<(), String>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<(), String> {
    let mut asked = pin!(asked);
    tokio::select! {
        judged = &mut asked => judged,
        _ = connection => asked.await,
    }
}

fn http_request(
    check: &HttpCheck,
    scheme: &str,
    host: &str,
    protocol: BackendProtocol,
) -> Result<Request<Full<Bytes>>, String> {
    let request = match protocol {
        BackendProtocol::Http1 | BackendProtocol::Auto => Request::get(&*check.path)
            .header(HOST, host)
            .header(http::header::CONNECTION, "close"),
        BackendProtocol::H2c => Request::get(format!("{scheme}://{host}{}", check.path)),
    };
    let mut request = request
        .header(USER_AGENT, AGENT)
        .body(Full::default())
        .map_err(|error| error.to_string())?;
    for (name, value) in &check.headers {
        request.headers_mut().insert(name, value.clone());
    }
    Ok(request)
}

const AGENT: &str = "tidegate-check";

async fn judge_http(check: &HttpCheck, response: Response<Incoming>) -> Result<(), String> {
    let status = response.status();
    if !check
        .statuses
        .iter()
        .any(|(low, high)| *low <= status && status <= *high)
    {
        return Err(format!("status {}", status.as_u16()));
    }
    let Some(wanted) = &check.body else { return Ok(()) };
    let (body, _) = read(response.into_body()).await?;
    match memmem::find(&body, wanted.as_bytes()) {
        Some(_) => Ok(()),
        None => Err(format!("the answer does not contain {wanted:?}")),
    }
}

/// The first [`MAX_BODY`] bytes of a body, and its trailers, if it ended within them.
async fn read(mut body: Incoming) -> Result<(Bytes, Option<HeaderMap>), String> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the answer broke off: {error}"))?;
        match frame.into_data() {
            Ok(data) => {
                let room = MAX_BODY - bytes.len();
                bytes.extend_from_slice(data.get(..room).unwrap_or(&data));
                if bytes.len() == MAX_BODY {
                    return Ok((bytes.freeze(), None));
                }
            }
            Err(frame) => return Ok((bytes.freeze(), frame.into_trailers().ok())),
        }
    }
    Ok((bytes.freeze(), None))
}

fn grpc_request(service: &str, host: &str) -> Result<Request<Full<Bytes>>, String> {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a); // field 1, length-delimited
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut body = BytesMut::new();
    body.put_u8(0); // not compressed
    body.put_u32(message.len() as u32);
    body.put_slice(&message);
    Request::post(format!("http://{host}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::new(body.freeze()))
        .map_err(|error| error.to_string())
}

async fn judge_grpc(response: Response<Incoming>) -> Result<(), String> {
    let status = response.status();
    if status != http::StatusCode::OK {
        return Err(format!("status {}", status.as_u16()));
    }
    // An answer without a message has its status in the head.
    let head = grpc_status(response.headers());
    let (body, trailers) = read(response.into_body()).await?;
    let code = head.or_else(|| trailers.as_ref().and_then(grpc_status));
    match code.as_deref() {
        Some("0") => {}
        Some(code) => return Err(format!("grpc-status {code}")),
        None => return Err("no grpc-status".to_owned()),
    }
    match serving_status(&body) {
        Some(1) => Ok(()),
        Some(2) => Err("NOT_SERVING".to_owned()),
        Some(other) => Err(format!("serving status {other}")),
        None => Err("no health message".to_owned()),
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("grpc-status")?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// The status in a framed `HealthCheckResponse`; 0 when the field is left out, as its default is.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (prefix, rest) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix.get(1..)?.try_into().ok()?) as usize;
    let mut message = rest.get(..length)?;
    if prefix.first() != Some(&0) {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = take_varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            1 => message = message.get(8..)?,
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_messages_are_read() {
        for (body, expected) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 6, 0x12, 2, 9, 9, 8, 1], Some(1)), // with a field that is not known
            (&[0, 0, 0, 0, 3, 8, 0x81, 0], Some(1)),
            (&[1, 0, 0, 0, 2, 8, 1], None), // compressed
            (&[0, 0, 0, 0, 9, 8, 1], None), // cut short
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0], None),
            (&[0, 0, 0, 0, 2, 0x0b, 1], None),
        ] {
            assert_eq!(serving_status(body), expected, "{body:?}");
        }
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for number in [0, 1, 127, 128, 300, u64::MAX] {
            let mut out = BytesMut::new();
            put_varint(&mut out, number);
            assert_eq!(take_varint(&mut &out[..]), Some(number));
        }
        assert_eq!(take_varint(&mut &[0xff; 11][..]), None);
    }
}
