//! Hostname patterns to values, asked from the most specific to the least.
//!
//! The order is that of the Gateway API: the exact hostname, then wildcards by the length of their
//! suffix, then "any". Where `*.suffix` is there in both meanings, the one for a single label (Ingress)
//! comes before the one for one label or more (Gateway API), because it is the narrower.
//!
//! A hostname is probed once whole and once per label. What a client sends as its host is not bounded
//! by 253 characters, so only suffixes that are no longer than the longest one known are probed: at
//! most 126 probes of at most 253 bytes, whatever is sent.

use std::sync::Arc;

use super::sharded::Sharded;
use crate::model::HostPattern;

/// Values by hostname pattern.
#[derive(Clone, Debug)]
pub(crate) struct HostIndex<V> {
    any: Option<V>,
    exact: Sharded<Arc<str>, V>,
    single: Sharded<Arc<str>, V>,
    wide: Sharded<Arc<str>, V>,
    /// No suffix in `single` or `wide` has more bytes. Not lowered when one is removed.
    longest: usize,
}

impl<V> Default for HostIndex<V> {
    fn default() -> Self {
        Self {
            any: None,
            exact: Sharded::default(),
            single: Sharded::default(),
            wide: Sharded::default(),
            longest: 0,
        }
    }
}

impl<V: Clone> HostIndex<V> {
    /// Asks `visit` about the value of each pattern that matches, most specific first, until it answers.
    ///
    /// `host` is lower case, without port; empty when the client named none.
    pub(crate) fn walk<'s, R>(&'s self, host: &str, mut visit: impl FnMut(&'s V) -> Option<R>) -> Option<R> {
        if let Some(value) = self.exact.get(host)
            && let Some(answer) = visit(value)
        {
            return Some(answer);
        }
        if self.longest > 0
            && let Some(answer) = self.walk_suffixes(host, &mut visit)
        {
            return Some(answer);
        }
        self.any.as_ref().and_then(visit)
    }

    /// The value of exactly this pattern, to be changed.
    pub(crate) fn get_mut(&mut self, pattern: &HostPattern) -> Option<&mut V> {
        match pattern {
            HostPattern::Any => self.any.as_mut(),
            HostPattern::Exact(name) => self.exact.get_mut(name),
            HostPattern::SingleLabelWildcard(suffix) => self.single.get_mut(suffix),
            HostPattern::Wildcard(suffix) => self.wide.get_mut(suffix),
        }
    }

    /// Puts a value.
    pub(crate) fn insert(&mut self, pattern: &HostPattern, value: V) {
        match pattern {
            HostPattern::Any => self.any = Some(value),
            HostPattern::Exact(name) => self.exact.insert(Arc::clone(name), value),
            HostPattern::SingleLabelWildcard(suffix) => {
                self.longest = self.longest.max(suffix.len());
                self.single.insert(Arc::clone(suffix), value);
            }
            HostPattern::Wildcard(suffix) => {
                self.longest = self.longest.max(suffix.len());
                self.wide.insert(Arc::clone(suffix), value);
            }
        }
    }

    /// Takes a pattern out.
    pub(crate) fn remove(&mut self, pattern: &HostPattern) {
        match pattern {
            HostPattern::Any => self.any = None,
            HostPattern::Exact(name) => self.exact.remove(name),
            HostPattern::SingleLabelWildcard(suffix) => self.single.remove(suffix),
            HostPattern::Wildcard(suffix) => self.wide.remove(suffix),
        }
    }

    /// How many patterns there are.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.any.is_some()) + self.exact.len() + self.single.len() + self.wide.len()
    }

    fn walk_suffixes<'s, R>(&'s self, host: &str, visit: &mut impl FnMut(&'s V) -> Option<R>) -> Option<R> {
        let bytes = host.as_bytes();
        // The dot before the longest suffix that can be known, at the earliest; never a leading dot,
        // because a wildcard stands for at least one character.
        let mut from = host.len().saturating_sub(self.longest + 1).max(1);
        while let Some(dot) = memchr::memchr(b'.', bytes.get(from..)?).map(|found| from + found) {
            let (label, suffix) = (bytes.get(..dot)?, host.get(dot + 1..)?);
            if self.single.len() > 0
                && memchr::memchr(b'.', label).is_none()
                && let Some(value) = self.single.get(suffix)
                && let Some(answer) = visit(value)
            {
                return Some(answer);
            }
            if let Some(value) = self.wide.get(suffix)
                && let Some(answer) = visit(value)
            {
                return Some(answer);
            }
            from = dot + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(patterns: &[&str]) -> HostIndex<String> {
        let mut index = HostIndex::default();
        for text in patterns {
            let pattern = match text.strip_prefix("1.") {
                Some(suffix) => HostPattern::SingleLabelWildcard(suffix.into()),
                None => HostPattern::parse(text).unwrap(),
            };
            index.insert(&pattern, (*text).to_owned());
        }
        index
    }

    fn order(index: &HostIndex<String>, host: &str) -> Vec<String> {
        let mut seen = Vec::new();
        assert!(
            index
                .walk(host, |value| {
                    seen.push(value.clone());
                    None::<()>
                })
                .is_none()
        );
        seen
    }

    #[test]
    fn the_most_specific_comes_first() {
        let all = index(&["*", "a.b.c", "*.b.c", "1.b.c", "*.c", "1.c", "b.c"]);
        for (host, expected) in [
            ("a.b.c", &["a.b.c", "1.b.c", "*.b.c", "*.c", "*"][..]),
            ("x.b.c", &["1.b.c", "*.b.c", "*.c", "*"]),
            ("y.x.b.c", &["*.b.c", "*.c", "*"]),
            ("b.c", &["b.c", "1.c", "*.c", "*"]),
            ("c", &["*"]),
            (".c", &["*"]),
            (".x.c", &["*.c", "*"]),
            ("", &["*"]),
            ("other", &["*"]),
            ("a.b.c.", &["*"]),
        ] {
            assert_eq!(order(&all, host), expected, "{host}");
        }
    }

    #[test]
    fn agrees_with_the_patterns_themselves() {
        let texts = [
            "a.a", "*.a", "1.a", "*.a.a", "1.a.a", "*.b.a", "a", "*.a.b", "1.b",
        ];
        let all = index(&texts);
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let host: String = (0..random.usize(..9))
                .map(|_| *random.choice(b"ab..").unwrap() as char)
                .collect();
            let mut seen = order(&all, &host);
            seen.sort();
            let mut expected: Vec<_> = texts
                .iter()
                .filter(|text| match text.strip_prefix("1.") {
                    Some(suffix) => HostPattern::SingleLabelWildcard(suffix.into()).matches(&host),
                    None => HostPattern::parse(text).unwrap().matches(&host),
                })
                .map(|text| (*text).to_owned())
                .collect();
            expected.sort();
            assert_eq!(seen, expected, "{host:?}");
        }
    }

    #[test]
    fn a_long_host_costs_no_more_than_the_longest_suffix() {
        let index = index(&["*.example.com"]);
        let long = format!("{}example.com", "a.".repeat(16_000));
        assert_eq!(order(&index, &long), ["*.example.com"]);
        let started = std::time::Instant::now();
        for _ in 0..100 {
            assert!(order(&index, &".".repeat(32_000)).is_empty());
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(1));
    }
}
