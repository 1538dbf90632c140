//! Publishing: one writer swaps a pointer, many workers read through it without waiting.
//!
//! This is the only file that names `arc_swap`. There is an open report of unsoundness in it on arm64, so
//! the rest of the product sees only [`Published`], whose four functions could as well stand on
//! `RwLock<Arc<T>>`; the stress test below (generations and a canary) is run against whichever it is.
//!
//! A snapshot is read once per exchange by every worker. If each read counted up the one reference
//! counter of the snapshot, all cores would fight over that cache line. So each worker has a [`Reader`]:
//! it keeps one counted pointer, hands out clones of an `Rc` around it, and looks at one shared version
//! number (a load of a line that is written only by a publish) to learn whether its pointer is stale.
//!
//! The writer stores the pointer first and the version afterwards (release); a reader loads the version
//! (acquire) and then the pointer. So a reader that has seen a version also sees its pointer or a later
//! one, and never goes back. A worker that is idle keeps its last snapshot alive until it next asks:
//! at most one old snapshot per worker, and only the parts that have changed since count.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::Snapshot;

/// A value that is replaced as a whole while others read it.
pub struct Published<T> {
    pointer: ArcSwap<T>,
}

impl<T> Published<T> {
    /// With its first value.
    pub fn new(value: Arc<T>) -> Self {
        Self {
            pointer: ArcSwap::new(value),
        }
    }

    /// The value as it is now, owned: it may be kept across awaits.
    pub fn load(&self) -> Arc<T> {
        self.pointer.load_full()
    }

    /// Reads the value without counting a reference. The closure is synchronous, so that the guard
    /// never lives across an await.
    pub fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.pointer.load())
    }

    /// Replaces the value. Who has loaded the old one keeps it.
    pub fn store(&self, value: Arc<T>) {
        self.pointer.store(value);
    }
}

/// The writing end of the snapshot; the control plane has the only one.
pub struct Publisher {
    shared: Arc<Shared>,
}

/// Makes a [`Reader`] on each worker's own thread.
#[derive(Clone)]
pub struct Readers {
    shared: Arc<Shared>,
}

struct Shared {
    snapshot: Published<Snapshot>,
    /// Counts the publishes; written after `snapshot`.
    version: AtomicU64,
}

impl Publisher {
    /// Starts with an empty snapshot.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                snapshot: Published::new(Arc::new(Snapshot::default())),
                version: AtomicU64::new(0),
            }),
        }
    }

    /// The reading end.
    pub fn readers(&self) -> Readers {
        Readers {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Makes this the snapshot that every exchange from now on sees.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.shared.snapshot.store(snapshot);
        self.shared.version.fetch_add(1, Ordering::Release);
    }
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

impl Readers {
    /// A reader for the calling thread.
    pub fn reader(&self) -> Reader {
        let seen = self.shared.version.load(Ordering::Acquire);
        Reader {
            shared: Arc::clone(&self.shared),
            seen: Cell::new(seen),
            current: RefCell::new(Current(Rc::new(self.shared.snapshot.load()))),
        }
    }

    /// The snapshot as it is now, for those who ask rarely (admin).
    pub fn load(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load()
    }
}

/// A worker's view of the snapshot. Not `Send`: each worker makes its own.
pub struct Reader {
    shared: Arc<Shared>,
    seen: Cell<u64>,
    current: RefCell<Current>,
}

impl Reader {
    /// The newest snapshot. Costs one load of a shared, rarely written word and one non-atomic count.
    pub fn current(&self) -> Current {
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.seen.get() {
            let newest = Current(Rc::new(self.shared.snapshot.load()));
            // The old value is dropped after the borrow has ended.
            let old = self.current.replace(newest);
            self.seen.set(version);
            drop(old);
        }
        self.current.borrow().clone()
    }
}

/// One snapshot, held for as long as an exchange needs it; may be kept across awaits of its worker.
#[derive(Clone)]
#[allow(
    clippy::redundant_allocation,
    reason = "the outer count belongs to one worker, the inner one to all: clones must not touch the inner"
)]
pub struct Current(Rc<Arc<Snapshot>>);

impl Current {
    /// Owned by itself, for another thread.
    pub fn to_arc(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0)
    }
}

impl Deref for Current {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    /// A value whose parts belong together: a torn or freed read would show.
    struct Canary {
        generation: u64,
        inverse: u64,
        copies: Box<[u64]>,
    }

    impl Canary {
        fn new(generation: u64) -> Arc<Self> {
            Arc::new(Self {
                generation,
                inverse: !generation,
                copies: vec![generation; 16].into_boxed_slice(),
            })
        }

        fn check(&self) -> u64 {
            assert_eq!(self.inverse, !self.generation);
            assert!(self.copies.iter().all(|copy| *copy == self.generation));
            self.generation
        }
    }

    impl Drop for Canary {
        fn drop(&mut self) {
            self.check();
            self.inverse = 0;
            self.copies.fill(u64::MAX);
        }
    }

    #[test]
    fn many_readers_see_whole_values_and_never_an_older_one() {
        const STORES: u64 = 50_000;
        let published = Arc::new(Published::new(Canary::new(0)));
        let done = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..4)
            .map(|index| {
                let (published, done) = (Arc::clone(&published), Arc::clone(&done));
                thread::spawn(move || {
                    let mut newest = 0;
                    let mut kept = std::collections::VecDeque::new();
                    let mut reads = 0_u64;
                    while !done.load(Ordering::Acquire) {
                        let seen = if index % 2 == 0 {
                            published.with(Canary::check)
                        } else {
                            let value = published.load();
                            let seen = value.check();
                            kept.push_back(value);
                            if kept.len() > 64 {
                                kept.pop_front().unwrap().check();
                            }
                            seen
                        };
                        assert!(seen >= newest, "went back from {newest} to {seen}");
                        newest = seen;
                        reads += 1;
                    }
                    assert_eq!(published.load().check(), STORES);
                    reads
                })
            })
            .collect();
        for generation in 1..=STORES {
            published.store(Canary::new(generation));
            if generation % 64 == 0 {
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
        let last = Arc::downgrade(&published.load());
        drop(published);
        assert!(last.upgrade().is_none(), "nothing keeps the last value");
    }

    #[test]
    fn readers_of_snapshots_never_go_back() {
        const PUBLISHES: u64 = 20_000;
        let mut publisher = Publisher::new();
        let done = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (readers, done) = (publisher.readers(), Arc::clone(&done));
                thread::spawn(move || {
                    let reader = readers.reader();
                    let mut newest = 0;
                    while !done.load(Ordering::Acquire) {
                        let current = reader.current();
                        assert!(current.generation >= newest);
                        newest = current.generation;
                        assert!(
                            Rc::ptr_eq(&reader.current.borrow().0, &current.0)
                                || reader.current().generation >= newest
                        );
                    }
                    assert_eq!(reader.current().generation, PUBLISHES);
                })
            })
            .collect();
        for generation in 1..=PUBLISHES {
            publisher.publish(Arc::new(Snapshot {
                generation,
                ..Snapshot::default()
            }));
            if generation % 64 == 0 {
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Release);
        for worker in workers {
            worker.join().unwrap();
        }
    }

    #[test]
    fn a_held_snapshot_stays_and_unchanged_ones_are_shared() {
        let mut publisher = Publisher::new();
        let reader = publisher.readers().reader();
        let (first, again) = (reader.current(), reader.current());
        assert!(Rc::ptr_eq(&first.0, &again.0));
        publisher.publish(Arc::new(Snapshot {
            generation: 7,
            ..Snapshot::default()
        }));
        assert_eq!(reader.current().generation, 7);
        assert_eq!(
            first.generation, 0,
            "an exchange keeps the snapshot it began with"
        );
        let weak = Arc::downgrade(&first.to_arc());
        drop((first, again));
        assert!(
            weak.upgrade().is_none(),
            "the old snapshot is freed when its last exchange ends"
        );
    }
}
