//! A map that is cheap to copy and to change after copying: the shape of every table in a snapshot.
//!
//! Each published snapshot has its own copy of the tables, and one change makes the next copy. A plain
//! map would be copied whole. This one is an array of shards behind counted pointers: a copy counts up
//! one pointer per shard, and a change to a copy copies one shard (copy on write). With n entries there
//! are between n/64 and n/16 shards, so a change costs about n/64 counts and 64 copied entries: some
//! tens of microseconds at 100 000 entries. A small map is one shard and pays one hash per lookup.
//!
//! Hashes are foldhash with a seed per process: fast on short text, and a tenant who chooses hostnames
//! cannot aim for collisions.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::fast::RandomState;

/// Entries per shard, on average, at which the number of shards is raised.
const FULL: usize = 64;
/// Shards become so many times more when they are full, so that growing costs little over a lifetime.
const GROWTH: usize = 4;

/// A map from text to `V`, copied on write shard by shard.
#[derive(Clone, Debug)]
pub(crate) struct Sharded<K, V> {
    /// None at all when empty, else a power of two.
    shards: Box<[Arc<HashMap<K, V, RandomState>>]>,
    length: usize,
    hasher: RandomState,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self {
            shards: Box::default(),
            length: 0,
            hasher: RandomState::default(),
        }
    }
}

impl<K: Borrow<str> + Hash + Eq + Clone, V: Clone> Sharded<K, V> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        match &*self.shards {
            [] => None,
            [only] => only.get(key),
            shards => shards.get(self.place(key))?.get(key),
        }
    }

    /// The value of a key, to be changed: its shard is copied if a snapshot shares it.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut V> {
        self.get(key)?;
        let place = self.place(key);
        Arc::make_mut(self.shards.get_mut(place)?).get_mut(key)
    }

    /// Puts a value.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.shards.is_empty() {
            self.shards = Box::new([Arc::default()]);
        } else if self.length >= self.shards.len() * FULL && self.get(key.borrow()).is_none() {
            self.grow();
        }
        let place = self.place(key.borrow());
        if let Some(shard) = self.shards.get_mut(place)
            && Arc::make_mut(shard).insert(key, value).is_none()
        {
            self.length += 1;
        }
    }

    /// Takes a key out.
    pub(crate) fn remove(&mut self, key: &str) {
        if self.get(key).is_none() {
            return;
        }
        self.length -= 1;
        if self.length == 0 {
            self.shards = Box::default();
            return;
        }
        let place = self.place(key);
        if let Some(shard) = self.shards.get_mut(place) {
            let shard = Arc::make_mut(shard);
            shard.remove(key);
            if shard.len() * 4 < shard.capacity() {
                shard.shrink_to_fit();
            }
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// All entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    fn place(&self, key: &str) -> usize {
        match self.shards.len() {
            0 | 1 => 0,
            // The upper half: the map inside a shard uses its own seed, but why lean on that.
            count => (self.hasher.hash_one(key) >> 32) as usize & (count - 1),
        }
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.shards);
        let count = old.len() * GROWTH;
        self.shards = (0..count)
            .map(|_| {
                Arc::new(HashMap::with_capacity_and_hasher(
                    FULL / GROWTH,
                    self.hasher.clone(),
                ))
            })
            .collect();
        for (key, value) in old.iter().flat_map(|shard| shard.iter()) {
            let place = self.place(key.borrow());
            if let Some(shard) = self.shards.get_mut(place) {
                Arc::make_mut(shard).insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap as Plain;

    use super::*;

    #[test]
    fn behaves_as_a_map_through_growth_and_removal() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut sharded: Sharded<Arc<str>, u32> = Sharded::default();
        let mut plain: Plain<Arc<str>, u32> = Plain::new();
        for step in 0..20_000_u32 {
            let key: Arc<str> = Arc::from(random.u32(..3_000).to_string());
            if random.u32(..20_000) > step {
                sharded.insert(Arc::clone(&key), step);
                plain.insert(key, step);
            } else {
                sharded.remove(&key);
                plain.remove(&key);
            }
            assert_eq!(sharded.len(), plain.len());
        }
        for key in 0..3_000 {
            let key = key.to_string();
            assert_eq!(sharded.get(&key), plain.get(&*key));
        }
        assert_eq!(sharded.iter().count(), plain.len());
        for key in plain.keys() {
            sharded.remove(key);
        }
        assert_eq!(sharded.len(), 0);
        assert!(sharded.shards.is_empty());
    }

    #[test]
    fn a_change_leaves_copies_alone_and_shares_the_other_shards() {
        let mut now: Sharded<Arc<str>, u32> = Sharded::default();
        for key in 0..10_000 {
            now.insert(Arc::from(key.to_string()), key);
        }
        let before = now.clone();
        *now.get_mut("77").unwrap() = 0;
        now.remove("78");
        assert_eq!((before.get("77"), before.get("78")), (Some(&77), Some(&78)));
        assert_eq!((now.get("77"), now.get("78")), (Some(&0), None));
        let copied = now
            .shards
            .iter()
            .zip(&before.shards)
            .filter(|(a, b)| !Arc::ptr_eq(a, b))
            .count();
        assert!(
            (1..=2).contains(&copied),
            "{copied} of {} shards",
            now.shards.len()
        );
        assert!(now.get_mut("missing").is_none());
    }
}
