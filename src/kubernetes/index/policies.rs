//! Policies of TLS: what they come out as, and whose backends that touches.

use std::sync::Arc;

use super::{Dirty, Index};
use crate::kubernetes::backend_tls::Policies;
use crate::kubernetes::objects::{Id, Key, Kind};

impl Index {
    /// The policies of the namespaces that are marked; marks the Services for which they came out different, and the routes
    /// that lead there.
    pub(super) fn decide_policies(&mut self, dirty: &mut Dirty) {
        for namespace in std::mem::take(&mut dirty.policies) {
            let before = self.policies.remove(&namespace).unwrap_or_default();
            let next = Policies::of_namespace(&namespace, &self.store, Some(&before));
            for name in next.changed(&before) {
                let service = Id::new(Arc::clone(&namespace), Arc::clone(name));
                for key in self.dependents.of_service(&service) {
                    match key.kind {
                        Kind::Ingress => dirty.ingresses.insert(key),
                        _ => dirty.routes.insert(key),
                    };
                }
                dirty.services.insert(service);
            }
            for key in before.complaints.keys().chain(next.complaints.keys()) {
                self.complain(key, next.complaints.get(key).cloned().unwrap_or_default());
            }
            self.touch_policies(&namespace);
            if !next.is_empty() {
                self.policies.insert(namespace, next);
            }
        }
    }

    /// Notes that the statuses of a namespace's policies may be different.
    pub(super) fn touch_policies(&mut self, namespace: &str) {
        if self.touched.is_some() {
            let keys = self.store.in_namespace(Kind::BackendTlsPolicy, namespace);
            let keys: Vec<Key> = keys.map(|(key, _)| key.clone()).collect();
            for key in keys {
                self.touch_status(&key);
            }
        }
    }
}
