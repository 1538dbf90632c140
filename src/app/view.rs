//! What is live, for those who ask: the admin listener, the demo, tests.

use std::sync::{Arc, Mutex, PoisonError};

use crate::balance::Clock;
use crate::model::Reject;
use crate::snapshot::{Readers, Snapshot};

/// What is live.
pub struct Live {
    clock: Clock,
    readers: Readers,
    rejects: Mutex<Vec<Reject>>,
}

impl Live {
    pub(super) fn new(clock: Clock, readers: Readers) -> Self {
        Self {
            clock,
            readers,
            rejects: Mutex::default(),
        }
    }

    /// The snapshot that exchanges see now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.readers.load()
    }

    /// Counts the publications of the table.
    pub fn generation(&self) -> u64 {
        self.snapshot().generation
    }

    /// What is left out now, and why.
    pub fn rejects(&self) -> Vec<Reject> {
        self.rejects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The process's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    pub(super) fn set_rejects(&self, rejects: Vec<Reject>) {
        *self.rejects.lock().unwrap_or_else(PoisonError::into_inner) = rejects;
    }
}
