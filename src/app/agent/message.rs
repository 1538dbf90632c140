//! What the agent says, out of its bytes: messages of a gRPC stream, and of an `X509SVIDResponse` what is used of it. Pure.
//!
//! Sources: gRPC over HTTP/2 ("Length-Prefixed-Message"), Protocol Buffers' encoding, SPIFFE's `workloadapi.proto`. Read are the
//! five fields of the first SVID, which is the default identity (Workload API §5.3); everything else is passed over, but must
//! be well formed.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a message: what gRPC's libraries take unless they are told otherwise.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// What is in front of a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// gRPC's compression was not asked for.
    #[error("it is compressed")]
    Compressed,
    /// It is longer than anything that is wanted.
    #[error("it is longer than 4 MiB")]
    TooLong,
    /// It ends within a field.
    #[error("it ends within a field")]
    Cut,
    /// A number that has no end, or a kind of field that there is not.
    #[error("it is no message of Protocol Buffers")]
    NotProtobuf,
    /// A text that is none.
    #[error("a text of it is not UTF-8")]
    NotUtf8,
    /// There is no identity in it, which there has to be (Workload API §4.5).
    #[error("there is no {0} in it")]
    Missing(&'static str),
}

/// Messages out of pieces of a stream.
#[derive(Default)]
pub(super) struct Messages {
    buffer: BytesMut,
}

impl Messages {
    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next message, if all of it is here. After an error the stream is of no use.
    ///
    /// Asked after each piece, it holds a message and a piece at most.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, MessageError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let [compressed, a, b, c, d] = *prefix;
        if compressed != 0 {
            return Err(MessageError::Compressed);
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            return Err(MessageError::TooLong);
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// An identity, as the agent gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Svid<'message> {
    /// Its name.
    pub(super) id: &'message str,
    /// Certificates in DER one after another, the own one first.
    pub(super) chain: &'message [u8],
    /// The private key: PKCS#8 in DER.
    pub(super) key: &'message [u8],
    /// The trust domain's root certificates in DER, one after another.
    pub(super) bundle: &'message [u8],
}

/// The default identity of an `X509SVIDResponse`.
pub(super) fn default_svid(message: &[u8]) -> Result<Svid<'_>, MessageError> {
    let mut first = None;
    for field in Fields(message) {
        let (number, value) = field?;
        if let (1, Value::Bytes(bytes)) = (number, value) {
            // Of the others nothing is used, but a message that is torn is not used at all.
            let svid = svid(bytes)?;
            first.get_or_insert(svid);
        }
    }
    let svid = first.ok_or(MessageError::Missing("identity"))?;
    for (is_missing, what) in [
        (svid.id.is_empty(), "name"),
        (svid.chain.is_empty(), "certificate"),
        (svid.key.is_empty(), "private key"),
        (svid.bundle.is_empty(), "trust bundle"),
    ] {
        if is_missing {
            return Err(MessageError::Missing(what));
        }
    }
    Ok(svid)
}

fn svid(message: &[u8]) -> Result<Svid<'_>, MessageError> {
    let mut svid = Svid::default();
    for field in Fields(message) {
        match field? {
            (1, Value::Bytes(bytes)) => {
                svid.id = std::str::from_utf8(bytes).map_err(|_| MessageError::NotUtf8)?;
            }
            (2, Value::Bytes(bytes)) => svid.chain = bytes,
            (3, Value::Bytes(bytes)) => svid.key = bytes,
            (4, Value::Bytes(bytes)) => svid.bundle = bytes,
            _ => {}
        }
    }
    Ok(svid)
}

/// The fields of a message: their numbers and values.
struct Fields<'message>(&'message [u8]);

enum Value<'message> {
    Bytes(&'message [u8]),
    Number,
}

impl<'message> Iterator for Fields<'message> {
    type Item = Result<(u64, Value<'message>), MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'message> Fields<'message> {
    fn field(&mut self) -> Result<(u64, Value<'message>), MessageError> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => {
                self.number()?;
                Value::Number
            }
            1 => {
                self.bytes(8)?;
                Value::Number
            }
            2 => {
                let length = self.number()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => {
                self.bytes(4)?;
                Value::Number
            }
            _ => return Err(MessageError::NotProtobuf), // groups are of a time before this API
        };
        match tag >> 3 {
            0 => Err(MessageError::NotProtobuf),
            number => Ok((number, value)),
        }
    }

    /// A number of variable length: seven bits a byte, the lowest first.
    fn number(&mut self) -> Result<u64, MessageError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(MessageError::Cut)?;
            self.0 = rest;
            if shift == 63 && *byte > 1 {
                break; // more than 64 bits
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(MessageError::NotProtobuf)
    }

    fn bytes(&mut self, length: u64) -> Result<&'message [u8], MessageError> {
        let length = usize::try_from(length).map_err(|_| MessageError::Cut)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(MessageError::Cut)?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
