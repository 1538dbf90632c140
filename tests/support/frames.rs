//! HTTP/2 as frames, for clients that break its rules.

use super::wire::Wire;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

/// A frame.
#[derive(Clone, Debug)]
pub struct Framed {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields as literals that are not indexed (RFC 7541 §6.2.2), none longer than 126 bytes.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            bytes.push(text.len() as u8);
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// The start of a client's connection.
pub fn opening() -> Vec<u8> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

impl Wire {
    /// The next frame; none at the end of the connection.
    pub async fn frame(&mut self) -> Option<Framed> {
        let head = self.some(9).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = self.some(length).await?;
        Some(Framed {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7FFF_FFFF,
            payload,
        })
    }

    async fn some(&mut self, length: usize) -> Option<Vec<u8>> {
        self.up_to(length).await.ok()
    }

    /// The first frame on a stream, or what ends the connection.
    pub async fn verdict(&mut self, stream: u32) -> Verdict {
        loop {
            match self.frame().await {
                None => return Verdict::Closed,
                Some(frame) if frame.kind == GOAWAY => return Verdict::GoAway,
                Some(frame) if frame.stream == stream && frame.kind == RST_STREAM => return Verdict::Reset,
                Some(frame) if frame.stream == stream && frame.kind == HEADERS => {
                    return Verdict::Status(status(&frame.payload));
                }
                Some(_) => {}
            }
        }
    }
}

/// How a stream was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Status(u16),
    Reset,
    GoAway,
    Closed,
}

/// The status at the start of a response's fields (RFC 7541 appendix A): an index, or a literal under the name's index.
fn status(block: &[u8]) -> u16 {
    let known = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [index @ 0x88..=0x8E, ..] => known[usize::from(index - 0x88)],
        [0x48 | 0x08 | 0x18, 3, digits @ ..] => String::from_utf8_lossy(&digits[..3]).parse().unwrap(),
        // Three digits in Huffman's code are two bytes: 0 to 9 are 5 or 6 bits each.
        [0x48 | 0x08 | 0x18, 0x82, digits @ ..] => huffman_digits(&digits[..2]),
        [0x48 | 0x08 | 0x18, 0x83, digits @ ..] => huffman_digits(&digits[..3]),
        other => panic!("no status at the start of {other:?}"),
    }
}

/// Digits in the code of RFC 7541 appendix B: 0, 1, 2 in five bits, 3 to 9 in six.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let mut at = 0;
    let mut number = 0;
    for _ in 0..3 {
        let value = |length: usize| {
            bits[at..at + length]
                .iter()
                .fold(0_u16, |sum, bit| sum * 2 + u16::from(*bit))
        };
        let five = value(5);
        if five < 3 {
            number = number * 10 + five;
            at += 5;
        } else {
            // 3 is 011001, 9 is 011111.
            number = number * 10 + (value(6) - 0b011001 + 3);
            at += 6;
        }
    }
    number
}
