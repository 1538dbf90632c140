//! HTTP/1 as bytes, for either side of a connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::endpoint::Tally;
use super::soon;

/// A connection that is read and written as bytes.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    tally: Option<Arc<Tally>>,
}

/// A message as it was on the wire.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The first line.
    pub start: String,
    /// The fields in their order, names as sent.
    pub fields: Vec<(String, String)>,
    /// The body, without its coding.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Vec<(String, String)>,
    /// Whether the message came to its end.
    pub whole: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Closed,
    Reset,
}

impl Message {
    /// A response's status.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The only value of a field, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is there {} times", all.len());
        all.first().copied()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn parse(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        Self {
            start: lines.next().unwrap().to_owned(),
            fields: lines.filter(|line| !line.is_empty()).map(field).collect(),
            ..Self::default()
        }
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .iter()
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').expect("a field has a colon");
    (name.to_owned(), value.trim().to_owned())
}

impl Wire {
    pub fn new(stream: TcpStream, tally: Option<Arc<Tally>>) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
            tally,
        }
    }

    pub async fn connect(address: std::net::SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap(), None)
    }

    pub fn local(&self) -> std::net::SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Sends bytes; the other side may be gone.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        soon("bytes to be taken", self.stream.write_all(bytes.as_ref()))
            .await
            .is_ok()
    }

    /// A request, and the response to it.
    pub async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Message {
        assert!(self.send(bytes).await, "the request is not taken");
        self.response().await.expect("no response came")
    }

    /// Reads more; false at the end.
    pub async fn fill(&mut self) -> Result<(), End> {
        let read = soon("more bytes", self.stream.read_buf(&mut self.buffer)).await;
        match read {
            Ok(0) => Err(End::Closed),
            Ok(_) => Ok(()),
            Err(_) => Err(End::Reset),
        }
    }

    /// The next head; none at the end of the connection.
    pub async fn head(&mut self) -> Option<Message> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.take(end + 4);
                return Some(Message::parse(std::str::from_utf8(&head[..end]).unwrap()));
            }
            self.fill().await.ok()?;
        }
    }

    /// A whole request.
    pub async fn request(&mut self) -> Option<Message> {
        let mut message = self.request_head().await?;
        self.body(&mut message, false).await;
        Some(message)
    }

    /// A request's head; it counts as a request from here on.
    pub async fn request_head(&mut self) -> Option<Message> {
        let message = self.head().await?;
        if let Some(tally) = &self.tally {
            tally.saw(&message.start);
        }
        Some(message)
    }

    /// A whole response to anything but HEAD; interim ones come by themselves.
    pub async fn response(&mut self) -> Option<Message> {
        let mut message = self.head().await?;
        let bodiless = message.status() < 200 || matches!(message.status(), 204 | 304);
        message.whole = bodiless;
        if !bodiless {
            self.body(&mut message, true).await;
        }
        Some(message)
    }

    /// Reads the body of a message. `to_the_end`: without a length it lasts until the connection ends.
    pub async fn body(&mut self, message: &mut Message, to_the_end: bool) {
        if message.has_token("transfer-encoding", "chunked") {
            message.whole = self.chunks(message).await.is_some();
        } else if let Some(length) = message
            .get("content-length")
            .map(|text| text.parse::<usize>().unwrap())
        {
            while self.buffer.len() < length && self.fill().await.is_ok() {}
            message.whole = self.buffer.len() >= length;
            message.body = self.take(length.min(self.buffer.len()));
        } else if to_the_end {
            let end = loop {
                if let Err(end) = self.fill().await {
                    break end;
                }
            };
            message.body = std::mem::take(&mut self.buffer);
            message.whole = end == End::Closed;
        } else {
            message.whole = true;
        }
    }

    async fn chunks(&mut self, message: &mut Message) -> Option<()> {
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.split(';').next()?, 16).ok()?;
            if size == 0 {
                loop {
                    let line = self.line().await?;
                    if line.is_empty() {
                        return Some(());
                    }
                    message.trailers.push(field(&line));
                }
            }
            while self.buffer.len() < size + 2 {
                self.fill().await.ok()?;
            }
            let chunk = self.take(size + 2);
            message.body.extend_from_slice(&chunk[..size]);
        }
    }

    /// One chunk's data, as it comes.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line().await?;
        let size = usize::from_str_radix(&line, 16).ok()?;
        while self.buffer.len() < size + 2 {
            self.fill().await.ok()?;
        }
        let mut chunk = self.take(size + 2);
        chunk.truncate(size);
        Some(chunk)
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.take(end + 2);
                return String::from_utf8(line[..end].to_vec()).ok();
            }
            self.fill().await.ok()?;
        }
    }

    /// Exactly so many bytes.
    pub async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            self.fill().await.expect("the connection ended early");
        }
        self.take(length)
    }

    /// Exactly so many bytes, or how the connection ended before.
    pub async fn up_to(&mut self, length: usize) -> Result<Vec<u8>, End> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.take(length))
    }

    /// Everything to the end of the connection, and how it ended.
    pub async fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.fill().await {
                return (std::mem::take(&mut self.buffer), end);
            }
        }
    }

    /// What was read and not yet taken.
    pub fn take_all(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Half-closes.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Whether nothing can be read for a moment.
    pub async fn is_silent_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stream.read_buf(&mut self.buffer))
            .await
            .is_err()
    }

    /// Ends with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// The stream, and the bytes read from it that nobody took.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.buffer)
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        self.buffer.drain(..length).collect()
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
