//! `OrcaLoadReport` in its binary form: protobuf's wire format in base64 (RFC 4648 §4 and §5, with or without padding).
//!
//! Bytes are decoded one by one as they are read; nothing is copied. Fields that are not of interest are skipped.

use super::{LoadError, LoadReport};

/// Reads a report.
pub(super) fn report(base64: &[u8]) -> Result<LoadReport, LoadError> {
    let mut report = LoadReport::default();
    let mut wire = Wire::new(base64);
    while let Some(field) = wire.field()? {
        match field {
            (1, Value::Double(number)) => report.set(b"cpu_utilization", number)?,
            (9, Value::Double(number)) => report.set(b"application_utilization", number)?,
            (8, Value::Bytes(length)) => {
                if let Some(number) = wire.entry(b"in_flight", length)? {
                    report.set(b"named_metrics.in_flight", number)?;
                }
            }
            (_, Value::Bytes(length)) => wire.skip(length)?,
            (_, Value::Double(_) | Value::Other) => {}
        }
    }
    Ok(report)
}

/// A field's value. Bytes are not read yet.
enum Value {
    Double(f64),
    Bytes(u64),
    Other,
}

struct Wire<'a> {
    base64: std::slice::Iter<'a, u8>,
    /// Bits decoded and not taken yet, in the low end.
    bits: u32,
    count: u32,
    /// Bytes taken.
    taken: u64,
}

impl<'a> Wire<'a> {
    fn new(base64: &'a [u8]) -> Self {
        Self {
            base64: base64.trim_ascii().trim_suffix_bytes(b'=').iter(),
            bits: 0,
            count: 0,
            taken: 0,
        }
    }

    fn next(&mut self) -> Result<Option<u8>, LoadError> {
        while self.count < 8 {
            let Some(letter) = self.base64.next() else {
                return Ok(None);
            };
            let value = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return Err(LoadError::Malformed),
            };
            self.bits = (self.bits << 6) | u32::from(value);
            self.count += 6;
        }
        self.count -= 8;
        self.taken += 1;
        Ok(Some((self.bits >> self.count) as u8))
    }

    fn byte(&mut self) -> Result<u8, LoadError> {
        self.next()?.ok_or(LoadError::Malformed)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), LoadError> {
        // Ends with the input, however large the number is.
        for _ in 0..bytes {
            self.byte()?;
        }
        Ok(())
    }

    /// A variable-length number whose first byte is known.
    fn number(&mut self, first: u8) -> Result<u64, LoadError> {
        let mut number = u64::from(first & 0x7f);
        let mut byte = first;
        let mut shift = 7;
        while byte & 0x80 != 0 {
            if shift > 63 {
                return Err(LoadError::Malformed);
            }
            byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
        }
        Ok(number)
    }

    fn double(&mut self) -> Result<f64, LoadError> {
        let mut bytes = [0; 8];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(f64::from_le_bytes(bytes))
    }

    /// The next field's number and value; none at the end.
    fn field(&mut self) -> Result<Option<(u64, Value)>, LoadError> {
        let Some(first) = self.next()? else {
            return Ok(None);
        };
        let key = self.number(first)?;
        let value = match key & 7 {
            0 => {
                let first = self.byte()?;
                self.number(first)?;
                Value::Other
            }
            1 => Value::Double(self.double()?),
            2 => {
                let first = self.byte()?;
                Value::Bytes(self.number(first)?)
            }
            5 => {
                self.skip(4)?;
                Value::Other
            }
            _ => return Err(LoadError::Malformed),
        };
        Ok(Some((key >> 3, value)))
    }

    /// An entry of a map from text to double, of so many bytes: its value, if this is its key.
    fn entry(&mut self, wanted: &[u8], length: u64) -> Result<Option<f64>, LoadError> {
        let end = self.taken.saturating_add(length);
        let (mut is_wanted, mut value) = (false, 0.0);
        while self.taken < end {
            match self.field()?.ok_or(LoadError::Malformed)? {
                (1, Value::Bytes(length)) => is_wanted = self.is(wanted, length)?,
                (2, Value::Double(number)) => value = number,
                (_, Value::Bytes(length)) => self.skip(length)?,
                (_, Value::Double(_) | Value::Other) => {}
            }
        }
        if self.taken > end {
            return Err(LoadError::Malformed);
        }
        Ok(is_wanted.then_some(value))
    }

    /// Whether the next so many bytes are these.
    fn is(&mut self, wanted: &[u8], length: u64) -> Result<bool, LoadError> {
        if length != wanted.len() as u64 {
            self.skip(length)?;
            return Ok(false);
        }
        let mut same = true;
        for byte in wanted {
            same &= self.byte()? == *byte;
        }
        Ok(same)
    }
}

/// What `[u8]` has no stable method for.
trait TrimSuffix {
    fn trim_suffix_bytes(&self, byte: u8) -> &Self;
}

impl TrimSuffix for [u8] {
    fn trim_suffix_bytes(&self, byte: u8) -> &Self {
        let end = self.iter().rposition(|other| *other != byte);
        self.get(..end.map_or(0, |end| end + 1)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Put together after protobuf's encoding: cpu 0.5, rps 300, utilization x=1, named in_flight=12 and y=3, application 0.75.
    const ALL: &str =
        "CQAAAAAAAOA/GKwCKgwKAXgRAAAAAAAA8D9CFAoJaW5fZmxpZ2h0EQAAAAAAAChAQgwKAXkRAAAAAAAACEBJAAAAAAAA6D8=";

    #[test]
    fn a_report_of_many_fields() {
        let expected = LoadReport {
            application_utilization: Some(0.75),
            cpu_utilization: Some(0.5),
            in_flight: Some(12.0),
        };
        for base64 in [
            ALL,
            ALL.trim_end_matches('='),
            &ALL.replace('/', "_"),
            &format!(" {ALL} "),
        ] {
            assert_eq!(report(base64.as_bytes()), Ok(expected), "{base64}");
        }
        assert_eq!(report(b""), Ok(LoadReport::default()));
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let letters = ALL.trim_end_matches('=');
        let good = (0..letters.len()).filter(|end| report(&letters.as_bytes()[..*end]).is_ok());
        // Only between fields, and where the bits of a letter are left over.
        assert!(good.count() <= 14);
        for bad in ["!!!!", "CQ==", "/////////////w==", "Cw=="] {
            assert_eq!(report(bad.as_bytes()), Err(LoadError::Malformed), "{bad}");
        }
    }
}
