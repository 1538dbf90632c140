//! What names of endpoints mean at the moment, and which backends have endpoints under them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Backend, BackendName, DnsName, Endpoint};

/// The control plane's side: a change of a name is a change of the backends that use it.
#[derive(Default)]
pub(super) struct Names {
    meanings: HashMap<DnsName, Arc<[IpAddr]>>,
    users: HashMap<DnsName, BTreeSet<BackendName>>,
    used: HashMap<BackendName, BTreeSet<DnsName>>,
}

impl Names {
    /// All that some backend uses.
    pub(super) fn wanted(&self) -> BTreeSet<DnsName> {
        self.users.keys().cloned().collect()
    }

    /// Follows which names a backend uses; none: the backend is gone. Tells whether that is other than before.
    pub(super) fn follow(&mut self, backend: &BackendName, policy: Option<&Backend>) -> bool {
        let named = policy.into_iter().flat_map(|policy| &policy.named);
        let now: BTreeSet<_> = named.map(|endpoint| endpoint.name.clone()).collect();
        let before = self.used.remove(backend).unwrap_or_default();
        let differs = before != now;
        for name in before.difference(&now) {
            if let Some(users) = self.users.get_mut(name) {
                users.remove(backend);
                if users.is_empty() {
                    self.users.remove(name);
                }
            }
        }
        for name in &now {
            self.users
                .entry(name.clone())
                .or_default()
                .insert(backend.clone());
        }
        if !now.is_empty() {
            self.used.insert(backend.clone(), now);
        }
        differs
    }

    /// A name means these addresses from now on; none: nothing. Returns whose endpoints are others now.
    pub(super) fn learn(
        &mut self,
        name: &DnsName,
        addresses: Option<Arc<[IpAddr]>>,
    ) -> BTreeSet<BackendName> {
        let before = match addresses {
            Some(addresses) => self.meanings.insert(name.clone(), addresses),
            None => self.meanings.remove(name),
        };
        if before.as_ref() == self.meanings.get(name) {
            return BTreeSet::new();
        }
        self.users.get(name).cloned().unwrap_or_default()
    }

    /// All endpoints of a backend: those given, then those under its names. An address that is there already is not
    /// there again.
    pub(super) fn complete(&self, policy: &Backend, given: Arc<[Endpoint]>) -> Arc<[Endpoint]> {
        if policy.named.is_empty() {
            return given;
        }
        let mut all = given.to_vec();
        for named in &policy.named {
            for address in self
                .meanings
                .get(&named.name)
                .into_iter()
                .flat_map(|all| all.iter())
            {
                let endpoint = named.at(*address);
                if !all.iter().any(|known| known.address == endpoint.address) {
                    all.push(endpoint);
                }
            }
        }
        all.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NamedEndpoint;

    #[test]
    fn a_name_changes_the_backends_that_use_it() {
        let name = |text| DnsName::parse(text).unwrap();
        let backend = |text: &str, names: &[(&'static str, u16)]| {
            let mut backend = Backend::new(BackendName::new(text));
            let named = names
                .iter()
                .map(|(text, port)| NamedEndpoint::new(name(text), *port));
            backend.named = named.collect();
            backend
        };
        let shown = |endpoints: Arc<[Endpoint]>| -> Vec<String> {
            endpoints.iter().map(|one| one.address.to_string()).collect()
        };
        let addresses = |all: &[&str]| Some(all.iter().map(|one| one.parse().unwrap()).collect());
        let users = |all: BTreeSet<BackendName>| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut names = Names::default();
        let (shop, both) = (
            backend("shop", &[("a", 80)]),
            backend("both", &[("a", 1), ("b", 1)]),
        );
        assert!(names.follow(&shop.name, Some(&shop)));
        assert!(names.follow(&both.name, Some(&both)));
        assert!(!names.follow(&both.name, Some(&both)));
        assert_eq!(names.wanted(), BTreeSet::from([name("a"), name("b")]));

        assert_eq!(
            users(names.learn(&name("a"), addresses(&["10.0.0.1", "10.0.0.2"]))),
            ["both", "shop"]
        );
        assert!(
            names
                .learn(&name("a"), addresses(&["10.0.0.1", "10.0.0.2"]))
                .is_empty()
        );
        assert_eq!(
            users(names.learn(&name("b"), addresses(&["10.0.0.2", "fd00::1"]))),
            ["both"]
        );
        let given: Arc<[Endpoint]> = [Endpoint::at("10.9.9.9:80".parse().unwrap())].into();
        assert_eq!(
            shown(names.complete(&shop, given)),
            ["10.9.9.9:80", "10.0.0.1:80", "10.0.0.2:80"]
        );
        let none: Arc<[Endpoint]> = [].into();
        assert_eq!(
            shown(names.complete(&both, none.clone())),
            ["10.0.0.1:1", "10.0.0.2:1", "[fd00::1]:1"]
        );

        names.follow(&both.name, Some(&backend("both", &[("b", 1)])));
        assert_eq!(users(names.learn(&name("a"), None)), ["shop"]);
        assert!(shown(names.complete(&shop, none)).is_empty());
        names.follow(&shop.name, None);
        names.follow(&both.name, None);
        assert!(names.users.is_empty() && names.used.is_empty());
    }
}
