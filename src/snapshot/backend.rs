//! Backends as rules hold them: an identity that lasts, with content that is swapped inside.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::sharded::Sharded;
use crate::model::{self, BackendName, Endpoint};

/// The lasting identity of a backend.
pub struct Backend {
    /// Its name.
    pub name: BackendName,
    /// Unique while the process lives: never given to another backend, also not to a later one of the
    /// same name.
    pub id: u64,
}

impl fmt::Debug for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Backend");
        debug
            .field("name", &self.name)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The control plane's side: every backend that is defined or mentioned, and what defines it.
pub(super) struct Backends {
    known: HashMap<BackendName, Known>,
    /// What a snapshot lists.
    listed: Sharded<BackendName, Arc<Backend>>,
    listed_changed: bool,
    next_id: u64,
}

struct Known {
    backend: Arc<Backend>,
    /// Mentions in compiled rules.
    mentions: usize,
    definition: Option<Definition>,
}

#[derive(PartialEq)]
struct Definition {
    policy: Arc<model::Backend>,
    endpoints: Arc<[Endpoint]>,
}

impl Backends {
    /// None at all.
    pub(super) fn new() -> Self {
        Self {
            known: HashMap::new(),
            listed: Sharded::default(),
            listed_changed: false,
            next_id: 1,
        }
    }

    /// The backend of a name, for a rule that mentions it; [`Self::release`] is owed for each call.
    pub(super) fn acquire(&mut self, name: &BackendName) -> Arc<Backend> {
        let known = self.known(name);
        known.mentions += 1;
        Arc::clone(&known.backend)
    }

    /// A rule that mentions the backend is gone.
    pub(super) fn release(&mut self, name: &BackendName) {
        if let Some(known) = self.known.get_mut(name) {
            known.mentions = known.mentions.saturating_sub(1);
            self.forget_if_unused(name);
        }
    }

    /// What a backend is now; says whether that is new.
    pub(super) fn define(
        &mut self,
        name: &BackendName,
        policy: &Arc<model::Backend>,
        endpoints: Arc<[Endpoint]>,
    ) -> bool {
        let definition = Definition {
            policy: Arc::clone(policy),
            endpoints,
        };
        let known = self.known(name);
        if known.definition.as_ref() == Some(&definition) {
            return false;
        }
        known.definition = Some(definition);
        true
    }

    /// Nobody defines the backend any more; says whether someone did. While rules mention it, it has no
    /// endpoints; otherwise it is forgotten as it is.
    pub(super) fn undefine(&mut self, name: &BackendName) -> bool {
        let Some(known) = self.known.get_mut(name) else {
            return false;
        };
        let defined = known.definition.take().is_some();
        self.forget_if_unused(name);
        defined
    }

    /// All that are defined or mentioned.
    pub(super) fn list(&self) -> &Sharded<BackendName, Arc<Backend>> {
        &self.listed
    }

    /// Whether the list has changed since the last call.
    pub(super) fn take_listed(&mut self) -> bool {
        std::mem::take(&mut self.listed_changed)
    }

    fn known(&mut self, name: &BackendName) -> &mut Known {
        self.known.entry(name.clone()).or_insert_with(|| {
            let backend = Arc::new(Backend {
                name: name.clone(),
                id: self.next_id,
            });
            self.next_id += 1;
            self.listed.insert(name.clone(), Arc::clone(&backend));
            self.listed_changed = true;
            Known {
                backend,
                mentions: 0,
                definition: None,
            }
        })
    }

    fn forget_if_unused(&mut self, name: &BackendName) {
        let unused = |known: &Known| known.mentions == 0 && known.definition.is_none();
        if self.known.get(name).is_some_and(unused) {
            self.known.remove(name);
            self.listed.remove(name.as_str());
            self.listed_changed = true;
        }
    }
}
