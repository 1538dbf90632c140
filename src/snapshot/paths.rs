//! The rules of one hostname, found by path: what a request pays for instead of reading every rule.
//!
//! Order of the matches, after the Gateway API (HTTPRoute, `matches`):
//!
//! 1. an exact path;
//! 2. the longest prefix; regular expressions stand among the prefixes by the length of their text.
//!    The Gateway API leaves them to the implementation. Behind all prefixes, a prefix `/` would hide
//!    every expression of its hostname; in front of all, `/.*` would hide every prefix. By length they
//!    come where a reader expects them, and where ingress-nginx puts them. At equal length the prefix
//!    is first;
//! 3. a method; the number of fields; the number of parameters of the query;
//! 4. the older route; its place in its source; its name; then the place of the rule and of the match.
//!
//! A hostname with few matches keeps them in one list in that order and reads it: most hostnames have
//! one or two, and a list is the least memory to touch. With more, an exact path is one lookup. A prefix can only end where an element of the path ends, so the path is
//! cut at its slashes and looked up from the longest cut to the shortest; a bit per depth says at which
//! depths any prefix ends, so that most cuts are never looked up. Prefixes deeper than 63 elements are
//! left to the list, with the regular expressions: the work on a long path is bounded.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::RequestHead;
use super::conditions;
use super::rule::{CompiledRoute, CompiledRule};
use super::sharded::Sharded;
use crate::model::{Match, PathMatch, RouteName};

/// Prefixes with so many slashes or more are read in order instead of looked up.
const DEPTHS: usize = 64;

/// So many matches of a hostname are read in order; more are looked up.
const FEW: usize = 8;

/// One match of one rule.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) route: Arc<CompiledRoute>,
    pub(super) rule: Arc<CompiledRule>,
    pub(super) path: PathMatch,
    /// Place of the match in its rule.
    index: u32,
    /// Nothing but the path is asked.
    plain: bool,
}

/// The matches of one hostname of one listener.
#[derive(Clone, Debug, Default)]
pub(super) struct PathTable {
    exact: Sharded<Arc<str>, Arc<[Entry]>>,
    prefixes: Sharded<Arc<str>, Arc<[Entry]>>,
    /// Bit n: some prefix has n slashes. Not cleared when the last of a depth goes.
    depths: u64,
    /// In order: everything while that is little; regular expressions and very deep prefixes else.
    listed: Arc<[Entry]>,
}

impl Entry {
    /// One for each match of each rule.
    pub(super) fn of(route: &Arc<CompiledRoute>) -> impl Iterator<Item = Self> {
        route.rules.iter().flat_map(|rule| {
            (0..).zip(&rule.rule.matches).map(|(index, condition)| Self {
                route: Arc::clone(route),
                rule: Arc::clone(rule),
                path: condition.path.clone(),
                index,
                plain: condition.method.is_none()
                    && condition.headers.is_empty()
                    && condition.queries.is_empty(),
            })
        })
    }

    fn conditions(&self) -> Option<&Match> {
        self.rule.rule.matches.get(self.index as usize)
    }

    fn holds(&self, head: &RequestHead<'_>) -> bool {
        self.plain
            || self
                .conditions()
                .is_some_and(|condition| conditions::hold(condition, head))
    }

    /// Smaller comes first, among entries of one path.
    fn precedence(&self) -> impl Ord + '_ {
        let counts = self.conditions().map(|condition| {
            (
                Reverse(condition.method.is_some()),
                Reverse(condition.headers.len()),
                Reverse(condition.queries.len()),
            )
        });
        let route = &self.route.route;
        let place = (
            route.created,
            route.order,
            &route.name,
            self.rule.index,
            self.index,
        );
        (counts, place)
    }

    /// Smaller comes first, among entries of all paths.
    fn overall_precedence(&self) -> impl Ord + '_ {
        let (kind, length) = weight(&self.path);
        (kind != Kind::Exact, Reverse(length), kind, self.precedence())
    }
}

impl PathTable {
    /// The first match, in order, that holds.
    pub(super) fn find<'s>(&'s self, head: &RequestHead<'_>) -> Option<&'s Entry> {
        let listed = |entry: &&Entry| entry.path.matches(head.path) && entry.holds(head);
        if self.is_list() {
            return self.listed.iter().find(listed);
        }
        let first = |entries: &'s Arc<[Entry]>| entries.iter().find(|entry| entry.holds(head));
        if let Some(found) = self.exact.get(head.path).and_then(first) {
            return Some(found);
        }
        let mut waiting = self.listed.iter().peekable();
        let mut cuts = [0_usize; DEPTHS];
        let mut prefixes = cut(head.path, self.depths, &mut cuts);
        while let Some((depth, end)) = prefixes.split_last().map(|(end, rest)| (rest.len(), *end)) {
            prefixes = prefixes.get(..depth).unwrap_or_default();
            if self.depths >> depth & 1 == 0 {
                continue;
            }
            let Some(entries) = head.path.get(..end).and_then(|prefix| self.prefixes.get(prefix)) else {
                continue;
            };
            while let Some(entry) = waiting.next_if(|entry| weight(&entry.path).1 > end) {
                if listed(&entry) {
                    return Some(entry);
                }
            }
            if let Some(found) = first(entries) {
                return Some(found);
            }
        }
        waiting.find(listed)
    }

    /// Takes out the entries of the routes `gone` and puts `added`, in one pass over the paths touched.
    pub(super) fn edit(&mut self, gone: &[Arc<CompiledRoute>], mut added: Vec<Entry>) {
        let names: HashSet<&RouteName> = gone.iter().map(|route| &route.route.name).collect();
        if self.is_list() {
            added = without(&self.listed, &names, added);
            if added.len() <= FEW {
                added.sort_by(|a, b| a.overall_precedence().cmp(&b.overall_precedence()));
                self.listed = added.into();
                return;
            }
            self.listed = Arc::default();
        }
        let mut exact: HashMap<Arc<str>, Vec<Entry>> = HashMap::new();
        let mut prefixes: HashMap<Arc<str>, Vec<Entry>> = HashMap::new();
        let mut listed: Option<Vec<Entry>> = None;
        for entry in gone.iter().flat_map(Entry::of) {
            match place(&entry.path) {
                Place::Exact(path) => exact.entry(path).or_default().clear(),
                Place::Prefix(path) => prefixes.entry(path).or_default().clear(),
                Place::Listed => listed.get_or_insert_default().clear(),
            }
        }
        for entry in added {
            match place(&entry.path) {
                Place::Exact(path) => exact.entry(path).or_default().push(entry),
                Place::Prefix(path) => {
                    self.depths |= 1 << slashes(&path);
                    prefixes.entry(path).or_default().push(entry);
                }
                Place::Listed => listed.get_or_insert_default().push(entry),
            }
        }
        for (map, edits) in [(&mut self.exact, exact), (&mut self.prefixes, prefixes)] {
            for (path, added) in edits {
                let old = map.get(&path).map_or(&[][..], |entries| entries);
                let mut entries = without(old, &names, added);
                entries.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
                if entries.is_empty() {
                    map.remove(&path);
                } else {
                    map.insert(path, entries.into());
                }
            }
        }
        if let Some(added) = listed {
            let mut entries = without(&self.listed, &names, added);
            entries.sort_by(|a, b| a.overall_precedence().cmp(&b.overall_precedence()));
            self.listed = entries.into();
        }
    }

    /// Whether no path leads anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.is_list() && self.listed.is_empty()
    }

    fn is_list(&self) -> bool {
        self.exact.len() == 0 && self.prefixes.len() == 0
    }
}

/// Where the entries of a path are kept.
enum Place {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Listed,
}

fn place(path: &PathMatch) -> Place {
    match path {
        PathMatch::Exact(text) => Place::Exact(Arc::clone(text)),
        PathMatch::Prefix(text) if slashes(text) < DEPTHS => Place::Prefix(Arc::clone(text)),
        PathMatch::Prefix(_) | PathMatch::Regex(_) => Place::Listed,
    }
}

fn slashes(path: &str) -> usize {
    memchr::memchr_iter(b'/', path.as_bytes()).count()
}

/// At equal length, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Exact,
    Prefix,
    Regex,
}

/// The kind of a path condition, and its length as the user wrote it.
fn weight(path: &PathMatch) -> (Kind, usize) {
    match path {
        PathMatch::Exact(text) => (Kind::Exact, text.len()),
        PathMatch::Prefix(text) => (Kind::Prefix, text.len()),
        // The model puts the expression between `^(?:` and `)$`.
        PathMatch::Regex(regex) => (Kind::Regex, regex.as_str().len().saturating_sub(6)),
    }
}

fn without(old: &[Entry], gone: &HashSet<&RouteName>, added: Vec<Entry>) -> Vec<Entry> {
    let kept = old.iter().filter(|entry| !gone.contains(&entry.route.route.name));
    kept.cloned().chain(added).collect()
}

/// The ends of the prefixes of a path by depth: at index n the one with n slashes. No deeper than the
/// deepest bit of `depths`.
fn cut<'c>(path: &str, depths: u64, cuts: &'c mut [usize; DEPTHS]) -> &'c [usize] {
    let wanted = DEPTHS - depths.leading_zeros() as usize;
    let ends = memchr::memchr_iter(b'/', path.as_bytes()).chain([path.len()]);
    let mut count = 0;
    for (place, end) in cuts.iter_mut().zip(ends).take(wanted) {
        *place = end;
        count += 1;
    }
    cuts.get(..count).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_end_at_elements_and_stop_at_the_deepest_prefix() {
        for (path, depths, expected) in [
            ("/a/bc", 0b111, &[0, 2, 5][..]),
            ("/a/bc", 0b011, &[0, 2]),
            ("/a/bc", 0b001, &[0]),
            ("/a/bc", 0b100, &[0, 2, 5]),
            ("/a/bc", 0, &[]),
            ("/", u64::MAX, &[0, 1]),
            ("*", u64::MAX, &[1]),
            ("", 1, &[0]),
        ] {
            assert_eq!(cut(path, depths, &mut [0; DEPTHS]), expected, "{path} {depths:b}");
        }
        let deep = "/a".repeat(1_000);
        assert_eq!(cut(&deep, u64::MAX, &mut [0; DEPTHS]).len(), 64);
    }

    #[test]
    fn an_expression_weighs_what_the_user_wrote() {
        assert_eq!(weight(&PathMatch::regex("/v[0-9]+").unwrap()), (Kind::Regex, 8));
        assert_eq!(weight(&PathMatch::prefix("/v/")), (Kind::Prefix, 2));
    }
}
