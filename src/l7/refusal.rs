//! Refusals: requests whose framing is refused before they are parsed, and how the exchange learns of it.
//!
//! The gate before the HTTP library puts a request of its own in the place of a refused one. This file is the form of
//! that request, known to both sides.

/// Why a request's head is refused on its raw bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// It breaks the grammar or its length is ambiguous.
    Malformed,
    /// It is larger than allowed, or has more fields.
    TooLarge,
    /// Its request line alone is larger than allowed.
    TargetTooLong,
    /// It asks for a transfer coding other than `chunked`.
    UnsupportedCoding,
    /// It did not end in time.
    TooSlow,
}

/// The method of the stand-in. No client may send it.
pub const REFUSED_METHOD: &str = "TIDEGATE-REFUSED";

/// [`REFUSED_METHOD`] as a method.
pub fn refused_method() -> http::Method {
    http::Method::from_bytes(REFUSED_METHOD.as_bytes()).unwrap_or_default()
}

impl Refusal {
    /// The bytes of the request that stands in for the refused one.
    pub fn stand_in(self) -> String {
        format!("{REFUSED_METHOD} /{} HTTP/1.1\r\n\r\n", self as u8)
    }

    /// The refusal that a request stands for; none for a client's own request.
    pub fn of(method: &http::Method, path: &str) -> Option<Self> {
        if method.as_str() != REFUSED_METHOD {
            return None;
        }
        let known = [
            Self::TooLarge,
            Self::TargetTooLong,
            Self::UnsupportedCoding,
            Self::TooSlow,
        ];
        let code = path.strip_prefix('/').and_then(|text| text.parse::<u8>().ok());
        known
            .into_iter()
            .find(|refusal| Some(*refusal as u8) == code)
            .or(Some(Self::Malformed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_understood() {
        let method = http::Method::from_bytes(REFUSED_METHOD.as_bytes()).unwrap();
        for refusal in [
            Refusal::Malformed,
            Refusal::TooLarge,
            Refusal::TargetTooLong,
            Refusal::TooSlow,
        ] {
            let path = refusal.stand_in().split(' ').nth(1).unwrap().to_owned();
            assert_eq!(Refusal::of(&method, &path), Some(refusal));
        }
        assert_eq!(Refusal::of(&http::Method::GET, "/1"), None);
    }
}
