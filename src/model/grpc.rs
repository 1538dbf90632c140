//! Statuses of gRPC, as rules name them (<https://grpc.io/docs/guides/status-codes>).

/// A gRPC status that is not OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcStatus(u8);

/// By code, from 1.
const WORDS: [&str; 16] = [
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];

impl GrpcStatus {
    /// All words, in the order of their codes.
    pub const WORDS: [&'static str; 16] = WORDS;

    /// The one that a word stands for.
    pub fn of_word(word: &str) -> Option<Self> {
        let place = WORDS.iter().position(|known| *known == word)?;
        u8::try_from(place + 1).ok().map(Self)
    }

    /// The one that the value of `grpc-status` says; none for OK and what is no code.
    pub fn of_field(value: &[u8]) -> Option<Self> {
        let code = str::from_utf8(value).ok()?.parse().ok()?;
        (1..=WORDS.len())
            .contains(&usize::from(code))
            .then_some(Self(code))
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        WORDS.get(usize::from(self.0) - 1).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_codes() {
        for (word, code) in [
            ("cancelled", "1"),
            ("unavailable", "14"),
            ("unauthenticated", "16"),
        ] {
            let status = GrpcStatus::of_word(word).unwrap();
            assert_eq!(status.word(), word);
            assert_eq!(GrpcStatus::of_field(code.as_bytes()), Some(status));
        }
        for word in WORDS {
            assert_eq!(GrpcStatus::of_word(word).unwrap().word(), word);
        }
        for other in [&b"0"[..], b"17", b"-1", b"", b"x", b"\xff", b"256"] {
            assert_eq!(GrpcStatus::of_field(other), None);
        }
        assert_eq!(GrpcStatus::of_word("ok"), None);
    }
}
