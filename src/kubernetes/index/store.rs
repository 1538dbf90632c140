//! The objects that are known, as they were given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::kubernetes::front::is_front;
use crate::kubernetes::nginx::is_canary;
use crate::kubernetes::objects::{
    BackendTlsPolicy, ConfigMap, EndpointSlice, Id, Ingress, Key, Kind, Namespace, Object, ReferenceGrant,
    Secret, Service,
};

/// All objects by key. Ordered by kind, namespace, name, so that a kind or a namespace is one range.
#[derive(Debug, Default)]
pub struct Store {
    objects: BTreeMap<Key, Object>,
    /// The Ingresses that are canaries of others. There are few; others would have to be searched for them.
    canaries: BTreeSet<Id>,
    /// The Services that we made for Gateways.
    fronts: BTreeSet<Id>,
    /// Whether Services of the type ExternalName may lead anywhere.
    pub external_names: bool,
}

macro_rules! getters {
    ($($getter:ident: $kind:ident;)*) => {
        $(
            /// The object of that kind and id.
            pub fn $getter(&self, id: &Id) -> Option<&Arc<$kind>> {
                match self.objects.get(&Key { kind: Kind::$kind, id: id.clone() }) {
                    Some(Object::$kind(object)) => Some(object),
                    _ => None,
                }
            }
        )*
    };
}

impl Store {
    getters! {
        backend_tls_policy: BackendTlsPolicy;
        config_map: ConfigMap;
        endpoint_slice: EndpointSlice;
        ingress: Ingress;
        namespace: Namespace;
        secret: Secret;
        service: Service;
    }

    /// See [`Index::compact`](super::Index::compact).
    pub fn compact(&mut self) {
        super::compact(&mut self.objects);
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// The object with a key.
    pub fn get(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key)
    }

    /// Puts an object; gives the one it replaces.
    pub fn put(&mut self, key: Key, object: Object) -> Option<Object> {
        match &object {
            Object::Ingress(ingress) if is_canary(ingress) => {
                self.canaries.insert(key.id.clone());
            }
            Object::Ingress(_) => {
                self.canaries.remove(&key.id);
            }
            Object::Service(service) if is_front(service) => {
                self.fronts.insert(key.id.clone());
            }
            Object::Service(_) => {
                self.fronts.remove(&key.id);
            }
            _ => {}
        }
        self.objects.insert(key, object)
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &Key) -> Option<Object> {
        match key.kind {
            Kind::Ingress => self.canaries.remove(&key.id),
            Kind::Service => self.fronts.remove(&key.id),
            _ => false,
        };
        self.objects.remove(key)
    }

    /// All objects of a kind, by namespace and name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Object)> {
        self.from(kind, "").take_while(move |(key, _)| key.kind == kind)
    }

    /// All objects of a kind in a namespace, by name.
    pub fn in_namespace<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Key, &'a Object)> {
        self.from(kind, namespace)
            .take_while(move |(key, _)| key.kind == kind && *key.id.namespace == *namespace)
    }

    /// The canaries among the Ingresses of a namespace, by name.
    pub fn canaries<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a Id, &'a Ingress)> {
        self.canaries
            .range(Id::new(namespace, "")..)
            .take_while(move |id| *id.namespace == *namespace)
            .filter_map(|id| Some((id, &**self.ingress(id)?)))
    }

    /// The Services that we made for Gateways, be they still wanted or not.
    pub fn fronts(&self) -> &BTreeSet<Id> {
        &self.fronts
    }

    /// The grants in a namespace.
    pub fn grants<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a ReferenceGrant> {
        self.in_namespace(Kind::ReferenceGrant, namespace)
            .filter_map(|(_, object)| match object {
                Object::ReferenceGrant(grant) => Some(&**grant),
                _ => None,
            })
    }

    fn from(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = (&Key, &Object)> {
        let first = Key {
            kind,
            id: Id::new(namespace, ""),
        };
        self.objects.range(first..)
    }
}
