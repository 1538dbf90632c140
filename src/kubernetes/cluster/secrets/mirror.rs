//! What is known of the Secrets of a store: pure.
//!
//! It is fed from two sides: by the watch, and by the answers to what was written here. The watch lags behind, so what it says of a
//! Secret may be older than what is known already; then it is left aside, or a certificate that was just written would be
//! missing for a moment, and ordered once more. Versions tell which is older: they are numbers that grow with each write of any object
//! of the kind (KEP-5504; so it was before it was promised). Where they are no numbers everything is believed.
//!
//! A Secret that is gone leaves its version behind until the next list, for the same reason. A list that is older than what
//! was known before it is that of a cluster that was set back (etcd, restored from a backup), and replaces everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::shape::Record;

/// Secrets that are kept in mind; a name has two, and an account of Let's Encrypt gets certificates for 300 names in three hours.
pub const MAX_SECRETS: usize = 10_000;

/// What is known.
#[derive(Debug, Default)]
pub struct Mirror {
    slots: BTreeMap<String, Slot>,
    /// The version of the last list.
    listed: u64,
    /// Whether there was one.
    pub is_read: bool,
    /// Whether what is known was kept on disk, because there was none yet.
    pub is_restored: bool,
    /// What is wrong with the watch now.
    pub trouble: Option<String>,
    /// Whether there are more than are kept in mind.
    pub is_full: bool,
}

struct Slot {
    version: u64,
    /// None: it is gone.
    record: Option<Arc<Record>>,
}

impl Slot {
    /// Whether what is known says more than a Secret of this version.
    fn is_newer_than(&self, version: u64) -> bool {
        let is_gone_since = self.record.is_none() && version == self.version;
        version != 0 && (version < self.version || is_gone_since)
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.version, self.record.is_some())
    }
}

impl Mirror {
    /// What a Secret is.
    pub fn get(&self, name: &str) -> Option<&Arc<Record>> {
        self.slots.get(name)?.record.as_ref()
    }

    /// All that are there.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.slots.values().filter_map(|slot| slot.record.as_ref())
    }

    /// How many are there.
    pub fn len(&self) -> usize {
        self.records().count()
    }

    /// These were kept on disk. The first list replaces them.
    pub fn restore(&mut self, records: Vec<Record>) {
        if self.is_read {
            return;
        }
        self.is_restored = !records.is_empty();
        for record in records {
            self.put(record);
        }
    }

    /// A Secret is so.
    pub fn put(&mut self, record: Record) {
        let version = number(&record.version);
        let has_room = self.slots.len() < MAX_SECRETS;
        match self.slots.get_mut(&record.name) {
            Some(slot) if slot.is_newer_than(version) => {}
            Some(slot) => {
                *slot = Slot {
                    version,
                    record: Some(Arc::new(record)),
                };
            }
            None if has_room => {
                let name = record.name.clone();
                let record = Some(Arc::new(record));
                self.slots.insert(name, Slot { version, record });
            }
            None => self.is_full = true,
        }
    }

    /// A Secret is gone, as of a version; none: as of what is known of it.
    pub fn gone(&mut self, name: &str, version: Option<&str>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        let version = version.map_or(slot.version, number);
        if version >= slot.version || version == 0 {
            *slot = Slot {
                version,
                record: None,
            };
        }
    }

    /// These are all, as of a version.
    pub fn all(&mut self, records: Vec<Record>, version: &str) {
        let version = number(version);
        let is_restored = std::mem::take(&mut self.is_restored);
        if version < self.listed || version == 0 || is_restored {
            self.slots.clear();
        }
        let there: std::collections::BTreeSet<&str> =
            records.iter().map(|record| record.name.as_str()).collect();
        self.slots
            .retain(|name, slot| there.contains(name.as_str()) || slot.version > version);
        self.is_full = false;
        self.listed = version;
        self.is_read = true;
        for record in records {
            self.put(record);
        }
    }
}

/// A version as a number; 0: it is none.
fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, version: &str) -> Record {
        Record {
            name: name.to_owned(),
            version: version.to_owned(),
            token: None,
            bytes: Ok(Vec::new()),
        }
    }

    fn known(mirror: &Mirror) -> Vec<String> {
        let records = mirror.records();
        records
            .map(|one| format!("{}@{}", one.name, one.version))
            .collect()
    }

    #[test]
    fn what_is_older_than_what_is_known_is_left_aside() {
        let mut mirror = Mirror::default();
        mirror.all(vec![record("a", "5"), record("b", "6")], "10");
        assert!(mirror.is_read);
        mirror.put(record("a", "20"));
        mirror.put(record("a", "15"));
        assert_eq!(known(&mirror), ["a@20", "b@6"]);
        // A list that began before the last write.
        mirror.all(vec![record("a", "15")], "18");
        assert_eq!(known(&mirror), ["a@20"]);
        mirror.all(vec![record("a", "20"), record("c", "21")], "22");
        assert_eq!(known(&mirror), ["a@20", "c@21"]);
        mirror.put(record("c", "21"));
        assert_eq!(mirror.len(), 2);
    }

    #[test]
    fn what_is_gone_stays_gone_until_it_is_there_again() {
        let mut mirror = Mirror::default();
        mirror.all(vec![record("a", "5"), record("b", "6")], "10");
        mirror.gone("a", None);
        for late in ["4", "5"] {
            mirror.put(record("a", late));
            assert_eq!(known(&mirror), ["b@6"]);
        }
        mirror.gone("b", Some("3"));
        assert_eq!(known(&mirror), ["b@6"], "that was another one of its name");
        mirror.gone("b", Some("12"));
        mirror.gone("never-seen", Some("12"));
        assert!(known(&mirror).is_empty());
        mirror.put(record("a", "13"));
        assert_eq!(known(&mirror), ["a@13"]);
        mirror.all(Vec::new(), "14");
        assert!(known(&mirror).is_empty() && mirror.slots.is_empty());
    }

    #[test]
    fn a_cluster_that_was_set_back_and_versions_that_are_no_numbers_are_believed() {
        let mut mirror = Mirror::default();
        mirror.all(vec![record("a", "500")], "1000");
        mirror.put(record("a", "1200"));
        mirror.all(vec![record("a", "400")], "900");
        assert_eq!(known(&mirror), ["a@400"]);
        let mut mirror = Mirror::default();
        mirror.all(vec![record("a", "x")], "x");
        mirror.put(record("a", "w"));
        assert_eq!(known(&mirror), ["a@w"]);
        mirror.gone("a", Some("v"));
        assert!(known(&mirror).is_empty());
    }

    #[test]
    fn what_was_kept_is_replaced_by_what_is_read() {
        let mut mirror = Mirror::default();
        mirror.restore(vec![record("a", "500"), record("b", "501")]);
        assert!(mirror.is_restored && !mirror.is_read);
        assert_eq!(known(&mirror), ["a@500", "b@501"]);
        mirror.all(vec![record("a", "20")], "30");
        assert!(!mirror.is_restored);
        assert_eq!(known(&mirror), ["a@20"]);
        mirror.restore(vec![record("a", "500")]);
        assert_eq!(known(&mirror), ["a@20"], "it is read already");
    }

    #[test]
    fn there_is_a_bound() {
        let mut mirror = Mirror::default();
        for at in 0..=MAX_SECRETS {
            mirror.put(record(&at.to_string(), "1"));
        }
        assert!(mirror.is_full && mirror.len() == MAX_SECRETS);
        mirror.all(vec![record("a", "2")], "3");
        assert!(!mirror.is_full);
    }
}
