//! Canaries: an Ingress that takes a part of the requests of another one, with the same host and path in the same namespace.
//!
//! As in ingress-nginx a field of the request goes before a cookie, and that before the weight: `always` leads to the canary, `never` does
//! not, anything else asks the next. A field with a value of its own leads there with that value only. One path of the other Ingress so
//! becomes up to five rules; the more particular one wins because it asks for a field.

use std::sync::Arc;

use http::HeaderName;
use regex::Regex;

use super::PREFIX;
use crate::kubernetes::objects::Ingress;
use crate::model::{BackendTarget, HeaderMatch, Match, Rule, StringMatch, WeightedBackend};

/// Which requests go to the canary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Canary {
    /// Those with a field.
    header: Option<(HeaderName, Wanted)>,
    /// Those with a cookie: `always` and `never`.
    cookie: Option<[StringMatch; 2]>,
    /// So many …
    weight: u32,
    /// … of so many.
    total: u32,
}

#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    /// `always` and `never`.
    Word,
    /// This value.
    Value(StringMatch),
}

/// Whether an Ingress is the canary of another.
pub fn is_canary(ingress: &Ingress) -> bool {
    ingress.metadata.annotation(&format!("{PREFIX}canary")) == Some("true")
}

impl Canary {
    /// From the annotations' values. What is wrong takes no requests.
    pub fn of<'v>(
        value_of: &dyn Fn(&str) -> Option<&'v str>,
        complain: &mut dyn FnMut(&str, String),
    ) -> Self {
        let mut canary = Self {
            total: 100,
            ..Self::default()
        };
        if let Some(text) = value_of("canary-weight-total") {
            match text.parse() {
                Ok(total) if total > 0 => canary.total = total,
                _ => complain(
                    "canary-weight-total",
                    format!("{text:?} is no number from 1; 100 is used"),
                ),
            }
        }
        if let Some(text) = value_of("canary-weight") {
            match text.parse() {
                Ok(weight) => canary.weight = u32::min(weight, canary.total),
                Err(_) => complain("canary-weight", format!("{text:?} is no number; 0 is used")),
            }
        }
        if let Some(text) = value_of("canary-by-header") {
            match HeaderName::from_bytes(text.as_bytes()) {
                Err(_) => complain("canary-by-header", format!("{text:?} is no field's name")),
                Ok(name) => {
                    let value =
                        value_of("canary-by-header-value").map(|value| Ok(StringMatch::Exact(value.into())));
                    let pattern = value_of("canary-by-header-pattern")
                        .map(|text| Regex::new(text).map(StringMatch::Regex));
                    match value.or(pattern) {
                        None => canary.header = Some((name, Wanted::Word)),
                        Some(Ok(value)) => canary.header = Some((name, Wanted::Value(value))),
                        Some(Err(error)) => complain("canary-by-header-pattern", error.to_string()),
                    }
                }
            }
        }
        if let Some(name) = value_of("canary-by-cookie") {
            let words = ["always", "never"]
                .map(|word| Regex::new(&format!("(?:^|;\\s*){}={word}\\s*(?:;|$)", regex::escape(name))));
            match words {
                [Ok(always), Ok(never)] => {
                    canary.cookie = Some([StringMatch::Regex(always), StringMatch::Regex(never)]);
                }
                _ => complain("canary-by-cookie", format!("{name:?} is no name of a cookie")),
            }
        }
        canary
    }

    /// A rule of the other Ingress, and what goes before it.
    pub fn divide(&self, rule: Rule, target: BackendTarget) -> Vec<Rule> {
        let with = |name: &HeaderName, value: StringMatch| -> Vec<Match> {
            let field = HeaderMatch {
                name: name.clone(),
                value,
            };
            let mut matches = rule.matches.clone();
            for one in &mut matches {
                one.headers.push(field.clone());
            }
            matches
        };
        let to = |matches: Vec<Match>, is_canary: bool| {
            let mut next = Rule {
                matches,
                ..rule.clone()
            };
            if is_canary {
                for backend in &mut next.backends {
                    backend.target = target.clone();
                }
            }
            next
        };
        let word = |word: &str| StringMatch::Exact(Arc::from(word));
        let mut rules = Vec::new();
        match &self.header {
            None => {}
            Some((name, Wanted::Word)) => {
                rules.push(to(with(name, word("always")), true));
                rules.push(to(with(name, word("never")), false));
            }
            Some((name, Wanted::Value(value))) => rules.push(to(with(name, value.clone()), true)),
        }
        if let Some([always, never]) = &self.cookie {
            rules.push(to(with(&http::header::COOKIE, always.clone()), true));
            rules.push(to(with(&http::header::COOKIE, never.clone()), false));
        }
        let mut rest = rule;
        if self.weight > 0 {
            for backend in &mut rest.backends {
                backend.weight = self.total - self.weight;
            }
            rest.backends.push(WeightedBackend {
                target,
                weight: self.weight,
                filters: Vec::new(),
            });
        }
        rules.push(rest);
        rules
    }
}
