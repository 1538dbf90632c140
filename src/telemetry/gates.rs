//! Gates: the named conditions that must all hold before traffic should be sent here. What is
//! behind `/readyz`.
//!
//! A gate begins closed with the reason given, so that a condition nobody ever reported on is never
//! taken for a good one. Opening and closing is rare and is done by the control plane.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The gates, by name. Names are written in the source, so their number is bounded.
#[derive(Debug, Default)]
pub struct Gates(Mutex<BTreeMap<&'static str, State>>);

/// How a gate stands.
#[derive(Debug)]
enum State {
    /// With a remark, which may be empty.
    Open(String),
    /// With the reason.
    Closed(String),
}

/// One gate as it stands.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GateView {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Whether it is open.
    pub open: bool,
    /// Why it is closed; of an open one what is not well all the same, most often nothing.
    pub reason: String,
}

impl Gates {
    /// Gates that are all closed, each with its name and the reason why it starts so.
    pub fn closed<const N: usize>(gates: [(&'static str, &str); N]) -> Self {
        Self(Mutex::new(
            gates
                .into_iter()
                .map(|(name, reason)| (name, State::Closed(reason.to_owned())))
                .collect(),
        ))
    }

    /// Opens a gate; one that is new is added.
    pub fn open(&self, name: &'static str) {
        self.open_but(name, "");
    }

    /// Opens a gate with a remark on what is not well, but no reason to send traffic elsewhere.
    pub fn open_but(&self, name: &'static str, remark: impl Into<String>) {
        self.lock().insert(name, State::Open(remark.into()));
    }

    /// Closes a gate, with the reason for the people who will ask; one that is new is added.
    pub fn close(&self, name: &'static str, reason: impl Into<String>) {
        self.lock().insert(name, State::Closed(reason.into()));
    }

    /// Whether all gates are open.
    pub fn ready(&self) -> bool {
        self.lock().values().all(|state| matches!(state, State::Open(_)))
    }

    /// All gates, by name.
    pub fn list(&self) -> Vec<GateView> {
        self.lock()
            .iter()
            .map(|(name, state)| {
                let (open, reason) = match state {
                    State::Open(remark) => (true, remark),
                    State::Closed(reason) => (false, reason),
                };
                GateView {
                    name: Cow::Borrowed(name),
                    open,
                    reason: reason.clone(),
                }
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_gate_is_open() {
        let gates = Gates::closed([("snapshot", "nothing read yet"), ("listeners", "not bound yet")]);
        assert!(!gates.ready());
        gates.open("snapshot");
        assert!(!gates.ready());
        gates.open("listeners");
        assert!(gates.ready());
        gates.open_but("snapshot", "its source is away");
        assert!(gates.ready());
        gates.close("draining", "asked to end");
        assert!(!gates.ready());
        assert_eq!(
            gates
                .list()
                .iter()
                .map(|gate| (&*gate.name, gate.open, &*gate.reason))
                .collect::<Vec<_>>(),
            [
                ("draining", false, "asked to end"),
                ("listeners", true, ""),
                ("snapshot", true, "its source is away")
            ]
        );
    }
}
