//! Names and what refers to them: which are well formed, which dangle, which nobody uses.

use std::collections::{BTreeMap, BTreeSet};

use super::Pass;
use crate::config::diagnostic::{Diagnostic, suggestion};
use crate::config::place::{Place, Placed};
use crate::config::units::{self, EndpointPlace};
use crate::model::{Backend, BackendName, Listener, ListenerKind, ListenerName, World};

/// Longest name. Names are labels of metrics and keys of the access log.
const MAX_NAME: usize = 100;

/// Whether a text can be a name; says why not.
pub fn check_name(pass: &mut Pass, what: &str, name: &Placed<String>) {
    let text = name.text();
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_NAME {
        "it is longer than 100 characters"
    } else if !text.bytes().all(letters) {
        "it has something else than letters, digits, '-', '_' and '.'"
    } else {
        return;
    };
    pass.error(
        name.place,
        format!("{text:?} cannot be the name of a {what}: {reason}"),
    );
}

/// The names that may be referred to.
pub struct Names {
    listeners: Vec<(ListenerName, ListenerKind)>,
    backends: BTreeMap<String, Place>,
    used: BTreeSet<String>,
}

impl Names {
    pub fn new(listeners: &[(Listener, Place)]) -> Self {
        Self {
            listeners: listeners
                .iter()
                .map(|(listener, _)| (listener.name.clone(), listener.kind))
                .collect(),
            backends: BTreeMap::new(),
            used: BTreeSet::new(),
        }
    }

    /// Whether redirected connections come to some listener.
    pub fn redirects(&self) -> bool {
        let mut kinds = self.listeners.iter().map(|(_, kind)| kind);
        kinds.any(|kind| matches!(kind, ListenerKind::Redirected(_)))
    }

    /// Something else than a route leads to a backend.
    pub fn use_backend(&mut self, name: &Placed<String>) {
        self.used.insert(name.value.clone());
    }

    pub fn define_backend(&mut self, name: &Placed<String>) {
        self.backends.insert(name.value.clone(), name.place);
    }

    /// Whether a listener relays bytes that nobody looks into.
    pub fn relays(&self, name: &ListenerName) -> bool {
        let mut all = self.listeners.iter();
        all.any(|(listener, kind)| listener == name && *kind != ListenerKind::Http)
    }

    /// The listeners a route is attached to: those named, or all that read requests.
    pub fn listeners(
        &self,
        pass: &mut Pass,
        named: Option<&Placed<Vec<Placed<String>>>>,
    ) -> Vec<ListenerName> {
        let Some(named) = named else {
            let reading = self
                .listeners
                .iter()
                .filter(|(_, kind)| *kind == ListenerKind::Http);
            return reading.map(|(name, _)| name.clone()).collect();
        };
        if named.value.is_empty() {
            pass.say(
                Diagnostic::error(named.place, "the list of listeners is empty")
                    .hint("leave it out to mean all"),
            );
        }
        let mut found: Vec<ListenerName> = Vec::with_capacity(named.value.len());
        for name in &named.value {
            let mut all = self.listeners.iter().map(|(listener, _)| listener);
            let Some(listener) = all.find(|listener| listener.as_str() == name.text()) else {
                if pass.found.is_full() {
                    continue;
                }
                let known = self.listeners.iter().map(|(listener, _)| listener.as_str());
                pass.say(
                    Diagnostic::error(name.place, format!("no listener is called {:?}", name.text()))
                        .maybe_hint(suggestion(name.text(), known)),
                );
                continue;
            };
            let redirected = |(other, kind): &(ListenerName, ListenerKind)| {
                other == listener && matches!(kind, ListenerKind::Redirected(_))
            };
            if self.listeners.iter().any(redirected) {
                pass.say(
                    Diagnostic::error(
                        name.place,
                        format!(
                            "no route is asked on {:?}, where redirected connections go where their clients wanted to go",
                            name.text()
                        ),
                    )
                    .hint("leave it out; see virtual_addresses of backends"),
                );
            } else if found.contains(listener) {
                pass.error(
                    name.place,
                    format!("the listener {:?} is there twice", name.text()),
                );
            } else {
                found.push(listener.clone());
            }
        }
        found
    }

    /// The backend that a text means: one of the file by name, or an address, which makes one.
    pub fn backend(&mut self, pass: &mut Pass, to: &Placed<String>, world: &mut World) -> BackendName {
        let text = to.text();
        if self.backends.contains_key(text) {
            self.used.insert(text.to_owned());
            return BackendName::new(text);
        }
        match units::endpoint_place(text) {
            Ok(place) => self.backend_at(place, world),
            // Nothing more is shown, so that nothing needs to be looked for.
            Err(_) if pass.found.is_full() => BackendName::new(text),
            Err(error) => {
                // A text with a colon was meant as an address, else as a name.
                let (message, hint) = if text.contains(':') {
                    (error.to_string(), Some(error.hint))
                } else {
                    let known = self.backends.keys().map(String::as_str);
                    let message = format!("no backend is called {text:?}");
                    let none_there =
                        || Some(format!("define it: backends: {{{text}: {{endpoints: [...]}}}}"));
                    (message, suggestion(text, known).or_else(none_there))
                };
                pass.say(Diagnostic::error(to.place, message).maybe_hint(hint));
                BackendName::new(text)
            }
        }
    }

    /// The backend without a name, for an address that a route names directly.
    fn backend_at(&mut self, place: EndpointPlace, world: &mut World) -> BackendName {
        let name = BackendName::new(place.to_string());
        self.used.insert(place.to_string());
        if !self.backends.contains_key(name.as_str()) && !world.backends.contains_key(&name) {
            let (mut backend, mut endpoints) = (Backend::new(name.clone()), Vec::new());
            place.put_into(&mut backend, &mut endpoints);
            world.backends.insert(name.clone(), backend.into());
            world.endpoints.insert(name.clone(), endpoints.into());
        }
        name
    }

    /// Says which backends no route names.
    pub fn warn_of_unused(&self, pass: &mut Pass) {
        for (name, place) in self
            .backends
            .iter()
            .filter(|(name, _)| !self.used.contains(*name))
        {
            pass.say(Diagnostic::warning(
                *place,
                format!("no route uses the backend {name:?}"),
            ));
        }
    }
}
