//! Claims of several sources on the same names, and who holds what.
//!
//! A name belongs to the source that gave it first; a later source that gives it too waits, and comes
//! in when the first lets go. "First" is the order of arrival, so that a source which starts to make
//! trouble never takes away what is already live. A source that changes what it gave keeps its place.

use std::collections::HashMap;
use std::hash::Hash;

/// The place of a source in the order in which sources were first heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SourceIndex(pub(super) usize);

/// What sources claim, by key. The value of the first claim is the one that counts.
#[derive(Debug)]
pub(super) struct Union<K, V> {
    held: HashMap<K, Claim<V>>,
    /// Claims on keys that another source holds, in order of arrival.
    waiting: HashMap<K, Vec<Claim<V>>>,
}

/// A source's claim on a key.
#[derive(Clone, Debug)]
pub(super) struct Claim<V> {
    pub(super) source: SourceIndex,
    pub(super) value: V,
}

/// What a change of a claim has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// What counts for the key is another value now, or none, or another source's.
    Changed,
    /// What counts is as before.
    Same,
    /// The claim has to wait, because this source holds the key.
    Waits(SourceIndex),
}

impl<K, V> Default for Union<K, V> {
    fn default() -> Self {
        Self {
            held: HashMap::new(),
            waiting: HashMap::new(),
        }
    }
}

impl<K: Hash + Eq + Clone, V: PartialEq> Union<K, V> {
    /// What counts for a key.
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&Claim<V>>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.held.get(key)
    }

    /// What counts, of all keys, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&K, &Claim<V>)> {
        self.held.iter()
    }

    /// What a source claims for a key, whether it counts or not.
    pub(super) fn claim_of(&self, key: &K, source: SourceIndex) -> Option<&V> {
        let held = self.held.get(key)?;
        let mut all = std::iter::once(held).chain(self.waiting.get(key).into_iter().flatten());
        all.find(|claim| claim.source == source).map(|claim| &claim.value)
    }

    /// A source gives a value for a key, or takes its own away.
    pub(super) fn put(&mut self, key: &K, source: SourceIndex, value: Option<V>) -> Claimed {
        match (self.held.get_mut(key), value) {
            (None, Some(value)) => {
                self.held.insert(key.clone(), Claim { source, value });
                Claimed::Changed
            }
            (None, None) => Claimed::Same,
            (Some(held), Some(value)) if held.source == source => {
                if held.value == value {
                    return Claimed::Same;
                }
                held.value = value;
                Claimed::Changed
            }
            (Some(held), None) if held.source == source => {
                match self.next_in_line(key) {
                    Some(next) => self.held.insert(key.clone(), next),
                    None => self.held.remove(key),
                };
                Claimed::Changed
            }
            (Some(held), Some(value)) => {
                let holder = held.source;
                let line = self.waiting.entry(key.clone()).or_default();
                match line.iter_mut().find(|claim| claim.source == source) {
                    Some(claim) => claim.value = value,
                    None => line.push(Claim { source, value }),
                }
                Claimed::Waits(holder)
            }
            (Some(_), None) => {
                self.leave_line(key, source);
                Claimed::Same
            }
        }
    }

    /// Claims that wait: the key, who waits, who holds it.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (&K, SourceIndex, SourceIndex)> {
        self.waiting.iter().flat_map(|(key, line)| {
            let holder = self.held.get(key).map(|held| held.source);
            line.iter()
                .filter_map(move |claim| holder.map(|holder| (key, claim.source, holder)))
        })
    }

    fn next_in_line(&mut self, key: &K) -> Option<Claim<V>> {
        let line = self.waiting.get_mut(key)?;
        let next = (!line.is_empty()).then(|| line.remove(0));
        if line.is_empty() {
            self.waiting.remove(key);
        }
        next
    }

    fn leave_line(&mut self, key: &K, source: SourceIndex) {
        if let Some(line) = self.waiting.get_mut(key) {
            line.retain(|claim| claim.source != source);
            if line.is_empty() {
                self.waiting.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stays_and_the_later_comes_in_when_it_goes() {
        let (a, b, c) = (SourceIndex(0), SourceIndex(1), SourceIndex(2));
        let mut union: Union<&str, u32> = Union::default();
        let held = |union: &Union<&str, u32>| union.get("x").map(|claim| (claim.source.0, claim.value));
        for (step, (source, value, expected, holder)) in [
            (a, None, Claimed::Same, None),
            (b, Some(1), Claimed::Changed, Some((1, 1))),
            (b, Some(1), Claimed::Same, Some((1, 1))),
            (a, Some(2), Claimed::Waits(b), Some((1, 1))),
            (c, Some(3), Claimed::Waits(b), Some((1, 1))),
            (a, Some(4), Claimed::Waits(b), Some((1, 1))),
            (b, Some(5), Claimed::Changed, Some((1, 5))),
            (b, None, Claimed::Changed, Some((0, 4))),
            (b, Some(6), Claimed::Waits(a), Some((0, 4))),
            (c, None, Claimed::Same, Some((0, 4))),
            (a, None, Claimed::Changed, Some((1, 6))),
            (b, None, Claimed::Changed, None),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(union.put(&"x", source, value), expected, "step {step}");
            assert_eq!(held(&union), holder, "step {step}");
        }
        assert!(union.waiting.is_empty());
    }

    #[test]
    fn each_source_knows_its_own_claim() {
        let (a, b) = (SourceIndex(0), SourceIndex(1));
        let mut union: Union<&str, u32> = Union::default();
        union.put(&"x", a, Some(1));
        union.put(&"x", b, Some(2));
        assert_eq!(union.claim_of(&"x", b), Some(&2));
        assert_eq!(union.claim_of(&"x", SourceIndex(2)), None);
        assert_eq!(union.waiting().collect::<Vec<_>>(), [(&"x", b, a)]);
    }
}
