//! Reading a PROXY header, strictly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Header, MAX_HEADER, MAX_LINE, SIGNATURE, crc32c, types};

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first bytes are not those of a header.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// It is longer than [`MAX_HEADER`], or its line than [`MAX_LINE`].
    #[error("the PROXY header is too long")]
    TooLong,
    /// It breaks the form.
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
    /// Its checksum is not that of its bytes.
    #[error("the PROXY header's checksum is wrong")]
    Checksum,
}

/// A header in the reading.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
}

/// What is wanted next.
#[derive(Debug, PartialEq, Eq)]
pub enum Want {
    /// So many bytes, at the most; all of them belong to the header.
    Bytes(usize),
    /// The bytes up to a line feed, which is the last one; so many at the most.
    Line(usize),
    /// Nothing: this is what it says.
    Nothing(Header),
}

/// Both versions' shortest headers are longer than this, and it tells them apart.
const START: usize = SIGNATURE.len();
/// The signature, version and command, family, length.
const FIXED: usize = 16;

impl Reader {
    /// Takes bytes that were wanted.
    pub fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What is wanted next.
    ///
    /// # Errors
    /// What is there is no header, or no good one.
    pub fn wants(&self) -> Result<Want, HeaderError> {
        let bytes = self.bytes.as_slice();
        let starts = |with: &[u8]| bytes.iter().zip(with).all(|(is, should)| is == should);
        if starts(b"PROXY ") {
            return match bytes.len() {
                length if length < START => Ok(Want::Bytes(START - length)),
                _ => wants_line(bytes),
            };
        }
        if !starts(SIGNATURE) {
            return Err(HeaderError::Missing);
        }
        let Some(fixed) = bytes.first_chunk::<FIXED>() else {
            return Ok(Want::Bytes(FIXED - bytes.len()));
        };
        let [.., version, _family, high, low] = *fixed;
        if version >> 4 != 2 {
            return Err(HeaderError::Malformed("its version is not 2"));
        }
        let whole = FIXED + usize::from(u16::from_be_bytes([high, low]));
        match whole {
            _ if whole > MAX_HEADER => Err(HeaderError::TooLong),
            _ if bytes.len() < whole => Ok(Want::Bytes(whole - bytes.len())),
            _ => read_bytes(bytes.get(..whole).unwrap_or_default()).map(Want::Nothing),
        }
    }
}

fn wants_line(bytes: &[u8]) -> Result<Want, HeaderError> {
    match memchr::memchr(b'\n', bytes) {
        None if bytes.len() >= MAX_LINE => Err(HeaderError::TooLong),
        None => Ok(Want::Line(MAX_LINE - bytes.len())),
        Some(_) if bytes.len() > MAX_LINE => Err(HeaderError::TooLong),
        Some(_) => read_line(bytes).map(Want::Nothing),
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\r\n`.
fn read_line(bytes: &[u8]) -> Result<Header, HeaderError> {
    let malformed = HeaderError::Malformed;
    let text = bytes
        .strip_suffix(b"\r\n")
        .ok_or(malformed("its line does not end in CR LF"))?;
    let text = std::str::from_utf8(text).map_err(|_| malformed("it is not text"))?;
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(malformed("it has control characters"));
    }
    let mut words = text.split(' ').skip(1);
    let mut next = || words.next().ok_or(malformed("it has too few words"));
    let family = next()?;
    if family == "UNKNOWN" {
        // What follows is to be ignored.
        return Ok(Header::default());
    }
    let (client, server) = (next()?, next()?);
    let (client_port, server_port) = (port(next()?)?, port(next()?)?);
    if words.next().is_some() {
        return Err(malformed("it has too many words"));
    }
    let addresses = match family {
        "TCP4" => (address::<Ipv4Addr>(client)?, address::<Ipv4Addr>(server)?),
        "TCP6" => (address::<Ipv6Addr>(client)?, address::<Ipv6Addr>(server)?),
        _ => return Err(malformed("its protocol is not known")),
    };
    Ok(Header {
        addresses: Some((
            SocketAddr::new(addresses.0, client_port),
            SocketAddr::new(addresses.1, server_port),
        )),
        ..Header::default()
    })
}

fn address<A: FromStr + Into<IpAddr>>(word: &str) -> Result<IpAddr, HeaderError> {
    let read = word.parse::<A>().map(Into::into);
    read.map_err(|_| HeaderError::Malformed("an address is none of its protocol"))
}

/// Decimal digits without a zero in front.
fn port(word: &str) -> Result<u16, HeaderError> {
    let malformed = HeaderError::Malformed("a port is no number from 0 to 65535");
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    is_plain.then(|| word.parse().ok()).flatten().ok_or(malformed)
}

/// Version 2, whole.
fn read_bytes(bytes: &[u8]) -> Result<Header, HeaderError> {
    let malformed = HeaderError::Malformed;
    let (Some(command), Some(family)) = (bytes.get(12), bytes.get(13)) else {
        return Err(malformed("it is too short"));
    };
    let body = bytes.get(FIXED..).unwrap_or_default();
    match command & 0x0F {
        // The proxy's own connection; whatever else is said is to be ignored.
        0 => return Ok(Header::default()),
        1 => {}
        _ => return Err(malformed("its command is not known")),
    }
    let short = malformed("its addresses do not fit into its length");
    let (addresses, more) = match family {
        // Not known, and what a path is to a socket of this machine nobody can say here: what the socket says counts.
        0x00 => return Ok(Header::default()),
        0x31 => (None, body.get(216..).ok_or(short)?),
        0x11 => {
            let (addresses, more) = body.split_first_chunk::<12>().ok_or(short)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *addresses;
            let at = |ip: [u8; 4], port| SocketAddr::from((ip, port));
            let (client_port, server_port) = ports_of(ports);
            (
                Some((at([a, b, c, d], client_port), at([e, f, g, h], server_port))),
                more,
            )
        }
        0x21 => {
            let (client, rest) = body.split_first_chunk::<16>().ok_or(short)?;
            let (server, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
            let (ports, more) = rest.split_first_chunk::<4>().ok_or(short)?;
            let at = |ip: &[u8; 16], port| SocketAddr::from((*ip, port));
            let (client_port, server_port) = ports_of(*ports);
            (Some((at(client, client_port), at(server, server_port))), more)
        }
        _ => return Err(malformed("its family or transport is not that of a connection")),
    };
    let mut header = Header {
        addresses,
        ..Header::default()
    };
    let before = bytes.len() - more.len();
    read_more(&mut header, bytes, before)?;
    Ok(header)
}

fn ports_of([a, b, c, d]: [u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// What follows the addresses: a type, two bytes of length, a value, again and again to the end.
fn read_more(header: &mut Header, bytes: &[u8], mut at: usize) -> Result<(), HeaderError> {
    let malformed = HeaderError::Malformed;
    while at < bytes.len() {
        let Some([kind, high, low]) = bytes.get(at..).and_then(<[u8]>::first_chunk::<3>) else {
            return Err(malformed("its last part is cut off"));
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let start = at + 3;
        let value = bytes
            .get(start..start + length)
            .ok_or(malformed("a part is longer than what is left of it"))?;
        match *kind {
            types::ALPN if (1..=255).contains(&length) => once(&mut header.alpn, value.into())?,
            types::AUTHORITY => {
                let name = std::str::from_utf8(value).map_err(|_| malformed("its name is not text"))?;
                once(&mut header.authority, name.to_ascii_lowercase().into())?;
            }
            types::UNIQUE_ID if length <= 128 => once(&mut header.unique_id, value.into())?,
            types::CRC32C => {
                let said =
                    <[u8; 4]>::try_from(value).map_err(|_| malformed("its checksum has not four bytes"))?;
                // Reckoned with zeros in its own place.
                let own = start..start + 4;
                let zeroed = bytes
                    .iter()
                    .enumerate()
                    .map(|(at, byte)| if own.contains(&at) { 0 } else { *byte });
                if crc32c(zeroed) != u32::from_be_bytes(said) {
                    return Err(HeaderError::Checksum);
                }
            }
            types::ALPN | types::UNIQUE_ID => {
                return Err(malformed("a part has a length that it cannot have"));
            }
            // Of TLS in front of the proxy, the network's name, padding, and what vendors add: nothing that is needed here.
            _ => {}
        }
        at = start + length;
    }
    Ok(())
}

/// Two that say different things would be read differently by different programs.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), HeaderError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeaderError::Malformed("a part is there twice")),
    }
}
