//! Listeners: who is bound where, among Ingresses and Gateways, and whose routes that touches.

use std::sync::Arc;

use super::{Dirty, Index};
use crate::kubernetes::gateway::gateways;
use crate::kubernetes::ingress;
use crate::kubernetes::objects::{Key, Kind};
use crate::model::{Delta, ListenerName};

impl Index {
    /// Who is bound where; marks the routes of Gateways that came out different.
    pub(super) fn decide_listeners(&mut self, dirty: &mut Dirty, delta: &mut Delta) {
        if !dirty.gateways && dirty.ingresses.is_empty() {
            return;
        }
        let next = ingress::listeners(
            self.ingresses_served > 0,
            self.certificates.values().flatten(),
            &self.settings,
        );
        let names = [ingress::LISTENER, ingress::TLS_LISTENER];
        let now = std::mem::take(&mut self.ingress_listeners);
        let came_or_went = now.each_ref().map(Option::is_some) != next.each_ref().map(Option::is_some);
        let both = now.into_iter().zip(next).zip(names);
        let kept: Vec<_> = both
            .map(|((now, next), name)| {
                if now.as_deref() == next.as_ref() {
                    return now;
                }
                let next = next.map(Arc::new);
                delta.listeners.insert(ListenerName::new(name), next.clone());
                next
            })
            .collect();
        for (place, kept) in self.ingress_listeners.iter_mut().zip(kept) {
            *place = kept;
        }
        if !dirty.gateways && !came_or_went {
            return;
        }
        let taken: Vec<_> = self
            .ingress_listeners
            .iter()
            .flatten()
            .map(|listener| listener.address)
            .collect();
        let next = gateways(&self.store, &self.settings, &taken, &self.gateways);
        let now = std::mem::take(&mut self.gateways);

        let mut changed = std::mem::take(&mut dirty.changed_parents);
        for key in now.views.keys().chain(next.views.keys()) {
            if now.views.get(key) != next.views.get(key) {
                changed.insert(key.clone());
            }
        }
        for key in &changed {
            dirty.routes.extend(self.dependents.of_parent(key));
        }
        for id in now.identities.keys().chain(next.identities.keys()) {
            if now.identities.get(id) != next.identities.get(id) {
                dirty
                    .services
                    .extend(self.dependents.shown_certificate_of(id).cloned());
            }
        }
        for name in now
            .listeners
            .keys()
            .filter(|name| !next.listeners.contains_key(*name))
        {
            delta.listeners.insert(name.clone(), None);
        }
        for (name, listener) in &next.listeners {
            if now.listeners.get(name) != Some(listener) {
                delta.listeners.insert(name.clone(), Some(Arc::clone(listener)));
            }
        }
        let differs =
            |key: &&Key| changed.contains(*key) || now.complaints.get(*key) != next.complaints.get(*key);
        for key in next.views.keys().filter(differs) {
            self.touch_status(key);
        }
        for id in now.attached_sets.keys().chain(next.attached_sets.keys()) {
            if now.attached_sets.get(id) != next.attached_sets.get(id) {
                let (kind, id) = (Kind::Gateway, id.clone());
                self.touch_status(&Key { kind, id });
            }
        }
        for key in now.complaints.keys().chain(next.complaints.keys()) {
            self.complain(key, next.complaints.get(key).cloned().unwrap_or_default());
        }
        self.touch_fronts(&now, &next);
        self.gateways = next;
    }
}
