//! The bytes on the wire: just enough HTTP/1.1 and HTTP/2 to ask for and to give a 128-byte answer.
//!
//! Both ends of the benchmark are written by hand so that they cost as little as possible: they share a core, and
//! a proxy can only be measured by a load that is lighter than itself.

use memchr::memmem;

/// Bytes in the body of every answer.
pub const BODY: usize = 128;

/// The HTTP/1.1 request of the client.
pub const H1_REQUEST: &[u8] =
    b"GET /bench HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: peers\r\nAccept: */*\r\n\r\n";

/// The HTTP/1.1 answer of the backend. It carries a date so that no proxy has to add one.
pub fn h1_answer() -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: {BODY}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + BODY, b'x');
    answer
}

/// Where the head ends (index of the first byte after the blank line).
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// One whole HTTP/1.1 answer at the front of a buffer.
pub struct Answer {
    /// Bytes it takes.
    pub length: usize,
    /// Status 200 with a body of the right length.
    pub good: bool,
}

/// Reads an answer; `None` while it is not whole. An answer without `content-length` is an error: the length of the
/// backend's answer is known, and a proxy that re-frames it does other work than its peers.
pub fn read_h1_answer(bytes: &[u8]) -> Result<Option<Answer>, String> {
    let Some(head) = head_end(bytes) else {
        return Ok(None);
    };
    let mut length = None;
    for line in bytes[..head].split(|&byte| byte == b'\n') {
        if line.len() > 15 && line[..15].eq_ignore_ascii_case(b"content-length:") {
            let text = std::str::from_utf8(&line[15..]).unwrap_or_default();
            length = text.trim().parse::<usize>().ok();
            break;
        }
    }
    let Some(body) = length else {
        let head = String::from_utf8_lossy(&bytes[..head]).into_owned();
        return Err(format!("an answer without content-length: {head}"));
    };
    if bytes.len() < head + body {
        return Ok(None);
    }
    let good = bytes.starts_with(b"HTTP/1.1 200") && body == BODY;
    Ok(Some(Answer {
        length: head + body,
        good,
    }))
}

/// HTTP/2 (RFC 9113), the parts that a benchmark meets.
pub mod h2 {
    use super::BODY;

    /// What a client says first.
    pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const RST_STREAM: u8 = 0x3;
    pub const SETTINGS: u8 = 0x4;
    pub const PING: u8 = 0x6;
    pub const GOAWAY: u8 = 0x7;
    pub const CONTINUATION: u8 = 0x9;
    const WINDOW_UPDATE: u8 = 0x8;

    /// On SETTINGS and PING.
    pub const ACK: u8 = 0x1;
    /// On HEADERS and DATA.
    pub const END_STREAM: u8 = 0x1;
    /// On HEADERS and CONTINUATION.
    pub const END_HEADERS: u8 = 0x4;

    /// The largest window there is; the client opens it once so that flow control never decides a result.
    const WINDOW: u32 = 0x7fff_ffff;

    /// One frame, borrowed from the buffer that it was read into.
    pub struct Frame<'a> {
        pub kind: u8,
        pub flags: u8,
        pub stream: u32,
        pub payload: &'a [u8],
    }

    /// The frame at the front of `bytes` and the bytes it takes; `None` while it is not whole.
    pub fn read(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
        let (head, rest) = bytes.split_at_checked(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = rest.get(..length)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & WINDOW;
        Some((
            Frame {
                kind: head[3],
                flags: head[4],
                stream,
                payload,
            },
            9 + length,
        ))
    }

    /// Appends a frame.
    pub fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(payload);
    }

    /// Appends what a client opens with: no push, and windows that never close.
    pub fn write_client_opening(out: &mut Vec<u8>) {
        out.extend_from_slice(PREFACE);
        let mut settings = vec![0, 2, 0, 0, 0, 0]; // ENABLE_PUSH = 0
        settings.extend_from_slice(&[0, 4]); // INITIAL_WINDOW_SIZE
        settings.extend_from_slice(&WINDOW.to_be_bytes());
        write(out, SETTINGS, 0, 0, &settings);
        write_window_update(out, WINDOW - 65_535);
    }

    /// Gives the peer `bytes` more of the connection's window.
    pub fn write_window_update(out: &mut Vec<u8>, bytes: u32) {
        write(out, WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes());
    }

    /// Appends what a server opens with: MAX_CONCURRENT_STREAMS = 1024.
    pub fn write_server_opening(out: &mut Vec<u8>) {
        write(out, SETTINGS, 0, 0, &[0, 3, 0, 0, 4, 0]);
    }

    /// Appends a literal field; name and value are shorter than 127 bytes and not Huffman-coded.
    fn literal(block: &mut Vec<u8>, index: u8, value: &str) {
        block.push(0x40 | index); // literal with incremental indexing, name from the static table
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }

    /// The field block of the first request of a connection: it fills the dynamic table.
    pub fn first_request() -> Vec<u8> {
        let mut block = vec![0x82, 0x86]; // :method GET, :scheme http
        literal(&mut block, 1, "bench.test"); // :authority
        literal(&mut block, 4, "/bench"); // :path
        literal(&mut block, 58, "peers"); // user-agent
        literal(&mut block, 19, "*/*"); // accept
        block
    }

    /// The field block of later requests: as a browser sends it, every field is an index into a table.
    pub const NEXT_REQUEST: &[u8] = &[0x82, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];

    /// Is this field block one of status 200? Every encoder sends it as index 8 of the static table; changes of the
    /// table size (001xxxxx) may come before it.
    pub fn is_ok(mut block: &[u8]) -> bool {
        while let [first, rest @ ..] = block {
            if first & 0xe0 != 0x20 {
                return *first == 0x88;
            }
            block = rest;
        }
        false
    }

    /// Appends the backend's answer.
    pub fn write_answer(out: &mut Vec<u8>, stream: u32) {
        // :status 200; content-length: 128 and content-type, literal and not indexed so that a block never depends
        // on an earlier one.
        let block: &[u8] = b"\x88\x0f\x0d\x03128\x0f\x10\x0atext/plain";
        write(out, HEADERS, END_HEADERS, stream, block);
        write(out, DATA, END_STREAM, stream, &[b'x'; BODY]);
    }
}
