//! Hostname patterns of listeners and routes, their meeting and their order.

use std::fmt;
use std::sync::Arc;

/// Which hostnames something is for. Text is lower case and has no port and no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Every hostname, also none.
    Any,
    /// Exactly this one.
    Exact(Arc<str>),
    /// `*.suffix`: one label or more before the suffix (Gateway API). The suffix has no leading dot.
    Wildcard(Arc<str>),
    /// `*.suffix`: exactly one label before the suffix (Ingress). The suffix has no leading dot.
    SingleLabelWildcard(Arc<str>),
}

/// Why a text is no hostname pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a hostname: {reason}")]
pub struct HostError {
    /// The text as given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl HostPattern {
    /// Reads `example.com`, `*.example.com` (one label or more) or `*`; upper case is folded.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let fail = |reason| HostError {
            text: text.to_owned(),
            reason,
        };
        if text == "*" {
            return Ok(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        let (wildcard, name) = match lower.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, lower.as_str()),
        };
        if name.is_empty() {
            return Err(fail("it is empty"));
        }
        if name.len() > 253 {
            return Err(fail("it is longer than 253 characters (RFC 1035)"));
        }
        if name.contains('*') {
            return Err(fail(
                "a wildcard stands alone as the first label, like *.example.com",
            ));
        }
        if name.contains(':') && !name.starts_with('[') {
            return Err(fail("it has a port; listeners have ports, hostnames do not"));
        }
        if name.contains('/') {
            return Err(fail("it has a path or a scheme"));
        }
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !name.split('.').all(label_ok) {
            return Err(fail("each label has 1 to 63 letters, digits or inner hyphens"));
        }
        Ok(if wildcard {
            Self::Wildcard(Arc::from(name))
        } else {
            Self::Exact(Arc::from(name))
        })
    }

    /// Whether a request's hostname (lower case, no port) is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => **name == *host,
            Self::Wildcard(suffix) => label_before(host, suffix).is_some(),
            Self::SingleLabelWildcard(suffix) => {
                label_before(host, suffix).is_some_and(|label| !label.contains('.'))
            }
        }
    }

    /// What both patterns mean: the narrower one, or none when they do not meet.
    ///
    /// This is how a route's hostnames are cut down to its listener's (Gateway API, `Listener.hostname`).
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let covers = |wide: &Self, narrow: &Self| match (wide, narrow) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (wide, Self::Exact(name)) => wide.matches(name),
            (Self::Exact(_), _) => false,
            (Self::Wildcard(wide), Self::Wildcard(narrow) | Self::SingleLabelWildcard(narrow)) => {
                wide == narrow || label_before(narrow, wide).is_some()
            }
            (Self::SingleLabelWildcard(wide), Self::SingleLabelWildcard(narrow)) => wide == narrow,
            (Self::SingleLabelWildcard(_), Self::Wildcard(_)) => false,
        };
        if covers(self, other) {
            Some(other.clone())
        } else if covers(other, self) {
            Some(self.clone())
        } else {
            None
        }
    }
}

/// What stands before `.suffix`, if `host` ends so.
fn label_before<'host>(host: &'host str, suffix: &str) -> Option<&'host str> {
    host.strip_suffix(suffix)?
        .strip_suffix('.')
        .filter(|label| !label.is_empty())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("*"),
            Self::Exact(name) => formatter.write_str(name),
            Self::Wildcard(suffix) | Self::SingleLabelWildcard(suffix) => write!(formatter, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_refuses() {
        assert_eq!(HostPattern::parse("*").unwrap(), HostPattern::Any);
        assert_eq!(
            HostPattern::parse("Shop.Example.com").unwrap().to_string(),
            "shop.example.com"
        );
        assert_eq!(
            HostPattern::parse("*.example.com").unwrap().to_string(),
            "*.example.com"
        );
        for bad in [
            "",
            "*.",
            "a..b",
            "a.*.b",
            "a:80",
            "http://a",
            "-a",
            "a-",
            "a b",
            &"a".repeat(254),
        ] {
            assert!(HostPattern::parse(bad).is_err(), "{bad:?} is no hostname");
        }
    }

    #[test]
    fn matches_by_the_rules_of_each_interface() {
        let wide = HostPattern::parse("*.example.com").unwrap();
        let single = HostPattern::SingleLabelWildcard("example.com".into());
        for (host, in_wide, in_single) in [
            ("a.example.com", true, true),
            ("a.b.example.com", true, false),
            ("example.com", false, false),
            ("aexample.com", false, false),
            (".example.com", false, false),
        ] {
            assert_eq!(wide.matches(host), in_wide, "{host}");
            assert_eq!(single.matches(host), in_single, "{host}");
        }
    }

    #[test]
    fn the_meeting_of_two_patterns_is_the_narrower() {
        let parse = |text| HostPattern::parse(text).unwrap();
        for (a, b, meeting) in [
            ("*", "a.b", Some("a.b")),
            ("a.b", "a.b", Some("a.b")),
            ("*.b", "a.b", Some("a.b")),
            ("*.b", "*.a.b", Some("*.a.b")),
            ("*.b", "b", None),
            ("a.b", "c.b", None),
            ("*.a", "*.b", None),
        ] {
            let expected = meeting.map(parse);
            assert_eq!(parse(a).intersect(&parse(b)), expected, "{a} and {b}");
            assert_eq!(parse(b).intersect(&parse(a)), expected, "{b} and {a}");
        }
    }
}
