//! What is found while one object is translated: what is wrong with it, and what it depends on.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::kubernetes::certificates::Held;
use crate::kubernetes::nginx::Upstream;
use crate::kubernetes::objects::{Id, Key};
use crate::kubernetes::service::PortUse;

/// Complaints kept of one object; a broken object need not say more than that.
const MAX_COMPLAINTS: usize = 16;

/// Something wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The field to blame, like `spec.rules[0].matches[1].path`; empty for the whole object.
    pub field: String,
    /// What is wrong, beginning with a condition reason of the Gateway API where it has one.
    pub reason: String,
}

impl Complaint {
    /// From a field and a reason.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl Complaint {
    /// The reason for a condition that the text begins with, and the rest of the text.
    pub fn condition(&self) -> Option<(&str, &str)> {
        condition(&self.reason)
    }
}

/// The reason for a condition that a text begins with (`BackendNotFound: …`), and the rest of it.
pub fn condition(text: &str) -> Option<(&str, &str)> {
    let (reason, message) = text.split_once(": ")?;
    let is_reason = reason.starts_with(|first: char| first.is_ascii_uppercase())
        && reason.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_reason.then_some((reason, message))
}

/// What a route or Ingress depends on: what makes a change of another object a change of this one.
///
/// Noted for what is missing as well, because it may come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dependencies {
    /// Ports of Services that get its requests.
    pub uses: BTreeSet<(Id, PortUse)>,
    /// Services whose ports were asked for.
    pub services: BTreeSet<Id>,
    /// What it wants to attach to.
    pub parents: BTreeSet<Key>,
    /// Secrets whose certificates were asked for.
    pub secrets: BTreeSet<Id>,
    /// Namespaces whose grants were asked for.
    pub granting: BTreeSet<Arc<str>>,
}

/// What is found while a route or Ingress is translated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// What is wrong, at most 16 entries.
    pub complaints: Vec<Complaint>,
    /// What it depends on.
    pub on: Dependencies,
    /// The certificates with which it is served.
    pub certificates: Vec<Held>,
    /// What it wishes of the ports of Services that it uses.
    pub upstream: Upstream,
}

impl Findings {
    /// Notes something wrong.
    pub fn complain(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        let complaint = Complaint::new(field, reason);
        if self.complaints.len() < MAX_COMPLAINTS && !self.complaints.contains(&complaint) {
            self.complaints.push(complaint);
        }
    }
}
