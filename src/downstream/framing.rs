//! The framing of HTTP/1 requests, followed on the raw bytes: where each message ends, and whether two readers could
//! disagree about it.
//!
//! # Why
//! Request smuggling lives on messages that two parsers cut at different places. Our HTTP library parses leniently
//! where RFC 9112 allows it (bare LF, `Content-Length` beside `Transfer-Encoding`, spaces after a chunk size …) and
//! hands over a normal form, so that a check behind it comes too late. This machine reads the same bytes first and
//! refuses whatever is ambiguous; what passes has one meaning only.
//!
//! # How
//! [`Framing`] is a state machine over bytes without I/O. It is asked for one thing: how much of the given bytes may
//! pass. A request's head passes only when it is whole, so that a refused head was never seen by anybody. Bodies pass
//! as they come. The rules are those of RFC 9112 (§2.2 line ends, §5.1 field lines, §6 message body, §7.1 chunks), each
//! in its strict reading.

use crate::l7::refusal::{REFUSED_METHOD, Refusal};

/// What may pass of the bytes given to [`Framing::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// So many bytes pass (perhaps none); the rest starts a head that is not whole yet: give it again with more behind it.
    Pass(usize),
    /// So many bytes pass; the head behind them is refused, or broken within what of its body was given with it.
    Refuse(usize, Refusal),
    /// The body breaks the framing: nothing more may pass, and what has passed must not be taken for a whole message.
    Broken,
}

/// Bounds on a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes, the empty line included.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
}

/// Follows the framing of one connection's requests.
#[derive(Debug)]
pub struct Framing {
    limits: HeadLimits,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before or within a head; `scanned` bytes of it are known not to end it.
    Head { scanned: usize },
    /// Within a body of known length.
    Length { left: u64 },
    /// Within a chunked body.
    Chunk(Chunk),
    /// After something that ends all.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size { value: u64, digits: u8 },
    Extension { value: u64, left: u16 },
    SizeLf { value: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart { left: u16 },
    TrailerLine { left: u16 },
    TrailerLf { left: u16 },
    EndLf,
}

/// Empty lines allowed before a request line (RFC 9112 §2.2 asks for at least one).
const MAX_LEADING_EMPTY_LINES: usize = 4;
/// Bytes of one chunk's extension; nobody uses them but attackers.
const MAX_CHUNK_EXTENSION: u16 = 256;
/// Bytes of a trailer section.
const MAX_TRAILERS: u16 = 16 * 1024;

impl Framing {
    /// At the start of a connection, or between two requests.
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            state: State::Head { scanned: 0 },
        }
    }

    /// Whether the connection is between two requests (or within a head that has not passed).
    pub fn at_head(&self) -> bool {
        matches!(self.state, State::Head { .. })
    }

    /// How much of `bytes` may pass. Bytes that did not pass are given again, with more behind them.
    pub fn advance(&mut self, bytes: &[u8]) -> Passage {
        let mut passed = 0;
        // Where the message at hand starts, if its head has not passed before.
        let mut start = None;
        loop {
            let rest = &bytes[passed..];
            match self.state {
                State::Head { scanned } => {
                    if rest.is_empty() {
                        return Passage::Pass(passed);
                    }
                    match self.head(rest, scanned) {
                        HeadEnd::Open => {
                            self.state = State::Head { scanned: rest.len() };
                            return Passage::Pass(passed);
                        }
                        HeadEnd::At(length, body) => {
                            start = Some(passed);
                            passed += length;
                            self.state = match body {
                                BodyLength::Known(0) => State::Head { scanned: 0 },
                                BodyLength::Known(left) => State::Length { left },
                                BodyLength::Chunked => State::Chunk(Chunk::Size { value: 0, digits: 0 }),
                            };
                        }
                        HeadEnd::Refused(refusal) => {
                            self.state = State::Ended;
                            return Passage::Refuse(passed, refusal);
                        }
                    }
                }
                State::Length { left } => {
                    let taken = left.min(rest.len() as u64);
                    passed += taken as usize;
                    if taken < left {
                        self.state = State::Length { left: left - taken };
                        return Passage::Pass(passed);
                    }
                    self.state = State::Head { scanned: 0 };
                }
                State::Chunk(chunk) => match advance_chunk(chunk, rest) {
                    ChunkEnd::Open(chunk) => {
                        self.state = State::Chunk(chunk);
                        return Passage::Pass(bytes.len());
                    }
                    ChunkEnd::At(length) => {
                        passed += length;
                        self.state = State::Head { scanned: 0 };
                    }
                    ChunkEnd::Broken => {
                        self.state = State::Ended;
                        return match start {
                            Some(start) => Passage::Refuse(start, Refusal::Malformed),
                            None => Passage::Broken,
                        };
                    }
                },
                State::Ended => return Passage::Broken,
            }
        }
    }

    fn head(&self, bytes: &[u8], scanned: usize) -> HeadEnd {
        let start = match leading_empty_lines(bytes) {
            Ok(start) => start,
            Err(refusal) => return HeadEnd::Refused(refusal),
        };
        let head = &bytes[start..];
        // Only the end is looked for in what is new; the lines are read once, when the head is whole.
        let from = scanned.saturating_sub(start + 3);
        let Some(end) = memchr::memmem::find(head.get(from..).unwrap_or_default(), b"\r\n\r\n") else {
            return match head.len() > self.limits.bytes {
                true => HeadEnd::Refused(self.too_large(head)),
                // A head that ends in bare LFs would keep us waiting for an end that never comes.
                false if has_bare_lf(head) => HeadEnd::Refused(Refusal::Malformed),
                false => HeadEnd::Open,
            };
        };
        let length = from + end + 4;
        if length > self.limits.bytes {
            return HeadEnd::Refused(self.too_large(head));
        }
        match read_head(&head[..length - 2], self.limits.fields) {
            Ok(body) => HeadEnd::At(start + length, body),
            Err(refusal) => HeadEnd::Refused(refusal),
        }
    }

    /// What is to blame in a head above the limit: the request line, if it alone is.
    fn too_large(&self, head: &[u8]) -> Refusal {
        let allowed = head.get(..self.limits.bytes).unwrap_or(head);
        match memchr::memchr(b'\n', allowed) {
            Some(_) => Refusal::TooLarge,
            None => Refusal::TargetTooLong,
        }
    }
}

enum HeadEnd {
    Open,
    At(usize, BodyLength),
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyLength {
    Known(u64),
    Chunked,
}

enum ChunkEnd {
    Open(Chunk),
    At(usize),
    Broken,
}

fn leading_empty_lines(bytes: &[u8]) -> Result<usize, Refusal> {
    let mut start = 0;
    while bytes[start..].starts_with(b"\r\n") {
        start += 2;
        if start > 2 * MAX_LEADING_EMPTY_LINES {
            return Err(Refusal::Malformed);
        }
    }
    Ok(start)
}

fn has_bare_lf(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

/// Reads a whole head (each line with its CRLF, without the empty line) for what decides the body's length.
fn read_head(head: &[u8], max_fields: usize) -> Result<BodyLength, Refusal> {
    let mut line_start = 0;
    let mut version = None;
    let mut fields = 0_usize;
    let mut content_length = None;
    let mut chunked = false;
    for lf in memchr::memchr_iter(b'\n', head) {
        if lf == line_start || head[lf - 1] != b'\r' {
            return Err(Refusal::Malformed);
        }
        let line = &head[line_start..lf - 1];
        line_start = lf + 1;
        if version.is_none() {
            version = Some(read_request_line(line)?);
            continue;
        }
        fields += 1;
        if fields > max_fields {
            return Err(Refusal::TooLarge);
        }
        // The two fields that frame have 14 and 17 letters; the colon's place tells most others apart at once.
        if line.get(14) == Some(&b':') && line[..14].eq_ignore_ascii_case(b"content-length") {
            if content_length.is_some() {
                return Err(Refusal::Malformed);
            }
            content_length = Some(read_content_length(trim(&line[15..]))?);
        } else if line.get(17) == Some(&b':') && line[..17].eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked {
                return Err(Refusal::Malformed);
            }
            if !trim(&line[18..]).eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::UnsupportedCoding);
            }
            chunked = true;
        }
    }
    match (content_length, chunked, version) {
        (_, _, None) => Err(Refusal::Malformed),
        (Some(_), true, _) => Err(Refusal::Malformed),
        (None, true, Some(Version::Http10)) => Err(Refusal::Malformed),
        (None, true, Some(Version::Http11)) => Ok(BodyLength::Chunked),
        (Some(length), false, _) => Ok(BodyLength::Known(length)),
        (None, false, _) => Ok(BodyLength::Known(0)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// Checks of the request line what is lost or repaired later: the version, a `#fragment`, the private method.
fn read_request_line(line: &[u8]) -> Result<Version, Refusal> {
    let version = match line {
        [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'] => Version::Http11,
        [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'] => Version::Http10,
        _ => return Err(Refusal::Malformed),
    };
    let fragment = memchr::memchr(b'#', line).is_some();
    if fragment || line.starts_with(REFUSED_METHOD.as_bytes()) {
        return Err(Refusal::Malformed);
    }
    Ok(version)
}

/// Digits only, no leading zero but `0` itself, below 2^63.
fn read_content_length(value: &[u8]) -> Result<u64, Refusal> {
    let strict = matches!(value, [b'0'] | [b'1'..=b'9', ..]) && value.len() <= 18;
    if !strict {
        return Err(Refusal::Malformed);
    }
    value.iter().try_fold(0_u64, |sum, byte| match byte {
        b'0'..=b'9' => Ok(sum * 10 + u64::from(byte - b'0')),
        _ => Err(Refusal::Malformed),
    })
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(start, |last| last + 1);
    &value[start..end]
}

/// Follows a chunked body to its end or to the end of the bytes.
fn advance_chunk(mut chunk: Chunk, bytes: &[u8]) -> ChunkEnd {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        chunk = match (chunk, byte) {
            (Chunk::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                Chunk::Size {
                    value: value << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (Chunk::Size { value, digits: 1.. }, b'\r') => Chunk::SizeLf { value },
            (Chunk::Size { value, digits: 1.. }, b';') => Chunk::Extension {
                value,
                left: MAX_CHUNK_EXTENSION,
            },
            (
                Chunk::Extension {
                    value,
                    left: ..MAX_CHUNK_EXTENSION,
                },
                b'\r',
            ) => Chunk::SizeLf { value },
            (
                Chunk::Extension {
                    value,
                    left: left @ 1..,
                },
                byte,
            ) if is_extension_byte(byte) => Chunk::Extension {
                value,
                left: left - 1,
            },
            (Chunk::SizeLf { value: 0 }, b'\n') => Chunk::TrailerStart { left: MAX_TRAILERS },
            (Chunk::SizeLf { value }, b'\n') => Chunk::Data { left: value },
            (Chunk::Data { left }, _) => {
                let taken = left.min((bytes.len() - at) as u64);
                at += taken as usize - 1;
                if taken < left {
                    Chunk::Data { left: left - taken }
                } else {
                    Chunk::DataCr
                }
            }
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size { value: 0, digits: 0 },
            (Chunk::TrailerStart { .. }, b'\r') => Chunk::EndLf,
            (Chunk::TrailerStart { left } | Chunk::TrailerLine { left }, _) if left == 0 => {
                return ChunkEnd::Broken;
            }
            (Chunk::TrailerLine { left }, b'\r') => Chunk::TrailerLf { left: left - 1 },
            (Chunk::TrailerStart { .. } | Chunk::TrailerLine { .. }, b'\n' | 0) => return ChunkEnd::Broken,
            (Chunk::TrailerStart { left } | Chunk::TrailerLine { left }, _) => {
                Chunk::TrailerLine { left: left - 1 }
            }
            (Chunk::TrailerLf { left }, b'\n') => Chunk::TrailerStart { left },
            (Chunk::EndLf, b'\n') => return ChunkEnd::At(at + 1),
            _ => return ChunkEnd::Broken,
        };
        at += 1;
    }
    ChunkEnd::Open(chunk)
}

/// Tokens and their signs, without the quoted strings and blanks that parsers disagree about.
fn is_extension_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~=;".contains(&byte)
}

#[cfg(test)]
mod tests;
