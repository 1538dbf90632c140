//! Answers of the API server as they come in: a head within a time, a body with a bound, lines of a watch.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use tokio::time::timeout;

use super::{events, requests};

/// How long the head of an answer may take, and the silence within one that is not a watch.
const ANSWER: Duration = Duration::from_secs(30);

/// The longest silence of a watch: it is over by then.
const SILENCE: Duration = Duration::from_secs(requests::WATCH_SECONDS + 10);

/// The longest line of a watch. The API server stores objects of up to about 1.5 MB.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// The largest answer that is not a watch; pages have 250 objects.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Bytes read of an answer that refuses.
const MAX_REFUSAL: usize = 16 * 1024;

/// Why there is no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// An HTTP status that is no success, and what is said with it.
    Refused(u16, String),
    /// The connection failed, or what came makes no sense.
    Lost(String),
}

impl Trouble {
    /// What came cannot be read. Where is told, and nothing of it: it may have a key in it.
    pub fn nonsense(error: &serde_json::Error) -> Self {
        Self::Lost(format!(
            "the API server's answer cannot be read (line {}, column {})",
            error.line(),
            error.column()
        ))
    }
}

/// Asks, and waits for the head of a good answer. `accept`: the form that is wanted.
pub async fn open(client: &Client, path: &str, accept: &str) -> Result<Response<Body>, Trouble> {
    let request = Request::get(path)
        .header(http::header::ACCEPT, accept)
        .body(Body::empty())
        .map_err(|error| Trouble::Lost(error.to_string()))?;
    send(client, request).await
}

/// Asks something, and waits for the head of a good answer.
pub async fn send(client: &Client, request: Request<Body>) -> Result<Response<Body>, Trouble> {
    let response = match timeout(ANSWER, client.send(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(Trouble::Lost(chain(&error))),
        Err(_) => return Err(Trouble::Lost("the API server does not answer".to_owned())),
    };
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let mut body = response.into_body();
    let mut text = BytesMut::new();
    while let Ok(Some(data)) = frame(&mut body, ANSWER).await {
        text.extend_from_slice(&data[..data.len().min(MAX_REFUSAL - text.len())]);
        if text.len() == MAX_REFUSAL {
            break;
        }
    }
    Err(Trouble::Refused(status.as_u16(), events::message(&text)))
}

/// The whole of an answer that ends.
pub async fn whole(response: Response<Body>) -> Result<String, Trouble> {
    let mut body = response.into_body();
    let mut text = BytesMut::new();
    while let Some(data) = frame(&mut body, ANSWER).await? {
        if text.len() + data.len() > MAX_ANSWER {
            return Err(Trouble::Lost(format!(
                "an answer of more than {MAX_ANSWER} bytes"
            )));
        }
        text.extend_from_slice(&data);
    }
    String::from_utf8(text.into()).map_err(|error| Trouble::Lost(error.utf8_error().to_string()))
}

/// The lines of a watch.
pub struct Lines {
    body: Body,
    buffer: BytesMut,
    looked_at: usize,
}

impl Lines {
    /// Of an answer.
    pub fn new(response: Response<Body>) -> Self {
        Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
            looked_at: 0,
        }
    }

    /// The next line; none when it is over.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.looked_at..]) {
                let line = self.buffer.split_to(self.looked_at + at).freeze();
                self.buffer.advance(1);
                self.looked_at = 0;
                return Ok(Some(line));
            }
            self.looked_at = self.buffer.len();
            if self.looked_at > MAX_LINE {
                return Err(Trouble::Lost(format!("a line of more than {MAX_LINE} bytes")));
            }
            match frame(&mut self.body, SILENCE).await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}

/// A line as text.
pub fn text(line: &[u8]) -> Result<&str, Trouble> {
    std::str::from_utf8(line).map_err(|error| Trouble::Lost(error.to_string()))
}

/// The next data of a body.
async fn frame(body: &mut Body, silence: Duration) -> Result<Option<Bytes>, Trouble> {
    loop {
        match timeout(silence, body.frame()).await {
            Err(_) => return Err(Trouble::Lost("the API server fell silent".to_owned())),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(Trouble::Lost(chain(&error))),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// An error with its causes; the library's own text rarely says what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
