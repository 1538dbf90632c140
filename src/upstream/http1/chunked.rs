//! A body in chunks, taken apart (RFC 9112 §7.1). Data is given out as parts of the bytes that were read; nothing is
//! copied but trailers.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Error;

/// Bytes of the extensions of one chunk; nobody uses them.
const MAX_EXTENSION: usize = 256;
/// Bytes of a response's trailer section.
const MAX_TRAILERS: usize = 16 * 1024;
/// Fields of a trailer section.
const MAX_TRAILER_FIELDS: usize = 64;

/// Where in the body the reader stands.
#[derive(Debug, Default)]
pub struct Chunked {
    state: State,
    /// In a size line: the size so far. In data: bytes still to come.
    left: u64,
    /// Digits of the size, or bytes of the extensions.
    seen: usize,
    /// The trailer section so far.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    End,
}

/// What comes next in the body.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// More bytes are needed.
    More,
    /// Bytes of the body.
    Data(Bytes),
    /// The end; with trailers, if there were any.
    End(Option<HeaderMap>),
}

impl Chunked {
    /// Takes from `bytes` up to the next part of the body.
    ///
    /// # Errors
    /// A size that is no number, a line that does not end in CR LF, extensions or trailers beyond their bounds.
    pub fn next(&mut self, bytes: &mut Bytes) -> Result<Part, Error> {
        loop {
            if self.state == State::End {
                return Ok(Part::End(None));
            }
            if bytes.is_empty() {
                return Ok(Part::More);
            }
            match self.state {
                State::Data => {
                    let length = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                    self.left -= length as u64;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(Part::Data(bytes.split_to(length)));
                }
                State::Trailers => {
                    if let Some(end) = self.trailers(bytes)? {
                        return Ok(end);
                    }
                }
                _ => {
                    let byte = bytes[0];
                    bytes::Buf::advance(bytes, 1);
                    self.step(byte)?;
                }
            }
        }
    }

    fn step(&mut self, byte: u8) -> Result<(), Error> {
        const MALFORMED: Error = Error::Malformed("a chunk of its body is not framed as one");
        self.state = match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let shifted = self.left.checked_mul(16).ok_or(MALFORMED)?;
                self.left = shifted | u64::from(digit);
                self.seen += 1;
                // Leading zeros are digits like others, but not without end.
                if self.seen > 16 {
                    return Err(MALFORMED);
                }
                State::Size
            }
            (State::Size, b'\r') if self.seen > 0 => State::SizeLf,
            (State::Size, b';' | b' ' | b'\t') if self.seen > 0 => {
                self.seen = 0;
                State::Extension
            }
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'\n' | 0) => return Err(MALFORMED),
            (State::Extension, _) if self.seen < MAX_EXTENSION => {
                self.seen += 1;
                State::Extension
            }
            (State::SizeLf, b'\n') if self.left == 0 => State::Trailers,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.seen = 0;
                State::Size
            }
            _ => return Err(MALFORMED),
        };
        Ok(())
    }

    /// Collects the trailer section up to its empty line.
    fn trailers(&mut self, bytes: &mut Bytes) -> Result<Option<Part>, Error> {
        let newline = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        self.trailers.extend_from_slice(&bytes.split_to(newline));
        if self.trailers.len() > MAX_TRAILERS {
            return Err(Error::TooLarge);
        }
        if self.trailers == b"\r\n" {
            self.state = State::End;
            return Ok(Some(Part::End(None)));
        }
        if !self.trailers.ends_with(b"\r\n\r\n") {
            return Ok(None);
        }
        self.state = State::End;
        fields(&std::mem::take(&mut self.trailers)).map(|fields| Some(Part::End(Some(fields))))
    }
}

fn fields(section: &[u8]) -> Result<HeaderMap, Error> {
    const MALFORMED: Error = Error::Malformed("its trailers cannot be read");
    let mut space = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(section, &mut space) else {
        return Err(MALFORMED);
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| MALFORMED)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| MALFORMED)?;
        trailers.append(name, value);
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Taken = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    /// Reads a body that comes in pieces; gives its data, its trailers, and the bytes behind it.
    fn read(pieces: &[&[u8]]) -> Result<Taken, Error> {
        let mut chunked = Chunked::default();
        let (mut data, mut behind, mut trailers) = (Vec::new(), Vec::new(), None);
        for piece in pieces {
            let mut bytes = Bytes::copy_from_slice(piece);
            loop {
                match chunked.next(&mut bytes)? {
                    Part::More => break,
                    Part::Data(part) => data.extend_from_slice(&part),
                    Part::End(found) => {
                        trailers = trailers.or(found);
                        behind.extend_from_slice(&bytes);
                        break;
                    }
                }
            }
        }
        assert_eq!(chunked.state, State::End, "the body has not ended");
        Ok((data, trailers, behind))
    }

    #[test]
    fn chunks_extensions_and_trailers_are_taken_apart() {
        let (data, trailers, behind) =
            read(&[b"3\r\nabc\r\n00A ;x=\"y\"\r\n0123456789\r\n0\r\nEtag: z\r\n\r\nnext"]).unwrap();
        assert_eq!(data, b"abc0123456789");
        assert_eq!(trailers.unwrap()["etag"], "z");
        assert_eq!(behind, b"next");
        let (data, trailers, behind) = read(&[b"0\r\n\r\n"]).unwrap();
        assert!(data.is_empty() && trailers.is_none() && behind.is_empty());
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        let long = format!("1;{}\r\na\r\n", "x".repeat(MAX_EXTENSION + 1));
        let trailers = format!("0\r\na: {}\r\n\r\n", "x".repeat(MAX_TRAILERS));
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n0\r\n\r\n",
            "1;a\nb\r\n",
            "11111111111111111\r\n",
            "00000000000000001\r\na\r\n0\r\n\r\n",
            " 1\r\na\r\n0\r\n\r\n",
            "0\r\nno colon\r\n\r\n",
            long.as_str(),
            trailers.as_str(),
        ] {
            let mut bytes = Bytes::copy_from_slice(body.as_bytes());
            let mut chunked = Chunked::default();
            let refused = loop {
                match chunked.next(&mut bytes) {
                    Err(_) => break true,
                    Ok(Part::Data(_)) => {}
                    Ok(_) => break false,
                }
            };
            assert!(refused, "{body:?}");
        }
    }

    proptest! {
        /// However a body is cut, in chunks and in reads, the same comes out.
        #[test]
        fn any_cut_gives_the_same(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in proptest::collection::vec(0_usize..400, 0..8),
            trailed in any::<bool>(),
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                super::super::encode::chunk_size(&mut body, chunk.len());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            let mut sent = HeaderMap::new();
            if trailed {
                sent.insert("x-sum", HeaderValue::from_static("1"));
            }
            super::super::encode::last_chunk(&mut body, &sent);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.push(body.len());
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&body[from..cut]);
                from = cut;
            }
            let (data, trailers, behind) = read(&pieces).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(trailers.unwrap_or_default(), sent);
            prop_assert!(behind.is_empty());
        }

        /// No input panics.
        #[test]
        fn anything_may_come(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = Bytes::from(bytes);
            let mut chunked = Chunked::default();
            while let Ok(Part::Data(_)) = chunked.next(&mut bytes) {}
        }
    }
}
