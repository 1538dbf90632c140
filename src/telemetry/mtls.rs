//! How connections came to listeners that ask for mTLS: in the metric `tidegate_mtls_connections_total`, in
//! `docs/sidecar.md`. It says when the last client has moved, so that clear text can be refused.

/// How a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Came {
    /// By mTLS, from somebody who may.
    Mtls,
    /// In clear text, or by TLS of the app's own, and was taken so.
    Plain,
    /// To a port where nobody is asked.
    NotAsked,
    /// It was refused; the outcome says why.
    Refused,
}

impl Came {
    /// All of them, in the order of their index.
    pub const ALL: [Self; 4] = [Self::Mtls, Self::Plain, Self::NotAsked, Self::Refused];

    /// The short code, as it stands in the metric.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Plain => "plain",
            Self::NotAsked => "not_asked",
            Self::Refused => "refused",
        }
    }

    /// Its place in [`Came::ALL`], for tables.
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_indexes_fit() {
        let codes: std::collections::BTreeSet<_> = Came::ALL.iter().map(|came| came.code()).collect();
        assert_eq!(codes.len(), Came::ALL.len());
        for (index, came) in Came::ALL.iter().enumerate() {
            assert_eq!(came.index(), index);
        }
    }
}
