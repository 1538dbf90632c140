//! Admission: how many requests a backend is given at once, and who goes first when that is not enough.

/// How many requests of a backend may wait for their response's head at once, over all its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// So many; at least 1.
    Fixed(u32),
    /// As many as make its answers no slower.
    Adaptive(AdaptiveConcurrency),
}

/// Bounds of a limit that finds itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveConcurrency {
    /// Never fewer; at least 1.
    pub min: u32,
    /// Never more; at least `min`.
    pub max: u32,
    /// Answers may take this percentage of what they usually take; more than 100.
    pub tolerance_percent: u32,
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        Self {
            min: 10,
            max: 10_000,
            tolerance_percent: 150,
        }
    }
}

/// How much it matters that a request is answered: the four classes of Google's "Site Reliability Engineering"
/// (chapter 21, "Handling Overload"). The first is the last to be refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Criticality {
    /// Users see it at once, and much of it, when it fails.
    CriticalPlus,
    /// Users see it when it fails: what a request is that does not say.
    #[default]
    Critical,
    /// It may fail for some minutes: batches that are tried again.
    SheddablePlus,
    /// It may fail often, and for hours.
    Sheddable,
}

impl Criticality {
    /// All of them, by their place.
    pub const ALL: [Self; 4] = [
        Self::CriticalPlus,
        Self::Critical,
        Self::SheddablePlus,
        Self::Sheddable,
    ];

    /// The word for it in configuration, fields of requests and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::CriticalPlus => "critical-plus",
            Self::Critical => "critical",
            Self::SheddablePlus => "sheddable-plus",
            Self::Sheddable => "sheddable",
        }
    }

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The one that a word stands for; capitals and underscores do not matter: `CRITICAL_PLUS`.
    pub fn of_word(word: &[u8]) -> Option<Self> {
        let plain = |byte: u8| match byte {
            b'_' => b'-',
            byte => byte.to_ascii_lowercase(),
        };
        Self::ALL.into_iter().find(|class| {
            let known = class.word().as_bytes();
            known.len() == word.len() && word.iter().zip(known).all(|(a, b)| plain(*a) == *b)
        })
    }

    /// The one that a `Priority` field stands for (RFC 9218 §4): by its urgency, 0 to 7 and 3 when it says nothing.
    pub fn of_priority(field: &[u8]) -> Self {
        let urgency = field
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .filter_map(|member| member.strip_prefix(b"u="))
            // Of several the last counts (RFC 8941 §4.2.2); parameters behind `;` say nothing.
            .filter_map(|value| match value {
                [digit @ b'0'..=b'7'] | [digit @ b'0'..=b'7', b';', ..] => Some(digit - b'0'),
                _ => None,
            })
            .next_back();
        match urgency {
            Some(0 | 1) => Self::CriticalPlus,
            Some(2 | 3) | None => Self::Critical,
            Some(4 | 5) => Self::SheddablePlus,
            Some(_) => Self::Sheddable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_words() {
        for (index, class) in Criticality::ALL.into_iter().enumerate() {
            assert_eq!(Criticality::of_word(class.word().as_bytes()), Some(class));
            assert_eq!(class.index(), index);
        }
        for (word, class) in [
            ("CRITICAL_PLUS", Some(Criticality::CriticalPlus)),
            ("Sheddable", Some(Criticality::Sheddable)),
            ("sheddable_Plus", Some(Criticality::SheddablePlus)),
            ("", None),
            ("critical ", None),
            ("critica", None),
        ] {
            assert_eq!(Criticality::of_word(word.as_bytes()), class, "{word:?}");
        }
        assert!(Criticality::CriticalPlus < Criticality::Sheddable);
    }

    #[test]
    fn a_priority_is_a_class() {
        for (field, class) in [
            ("u=0", Criticality::CriticalPlus),
            ("i, u=1", Criticality::CriticalPlus),
            ("u=3", Criticality::Critical),
            ("", Criticality::Critical),
            ("i", Criticality::Critical),
            ("u=9", Criticality::Critical),
            ("u=-1", Criticality::Critical),
            ("u=5, i", Criticality::SheddablePlus),
            ("u=7;x=1", Criticality::Sheddable),
            ("u=0, u=7", Criticality::Sheddable),
        ] {
            assert_eq!(Criticality::of_priority(field.as_bytes()), class, "{field:?}");
        }
    }
}
