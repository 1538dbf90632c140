//! The reviewer: once in a while the endpoints of each backend are compared, and those that do clearly worse are set
//! aside. One task of the control plane, so that no request pays for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::view::Live;
use crate::balance::History;
use crate::telemetry::metrics::{Concurrency, OTHER};

/// How often it is looked whether an interval is over.
const LOOK: Duration = Duration::from_millis(100);
/// So many looks apart it is looked who panics: once a second, because all endpoints are counted.
const PANIC_LOOKS: u32 = 10;

/// Reviews all backends, for ever.
pub(super) async fn review(live: Arc<Live>) {
    let mut histories: HashMap<u64, Before> = HashMap::new();
    let mut looks = 0_u32;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        looks = looks.wrapping_add(1);
        let snapshot = live.snapshot();
        let mut kept = HashMap::with_capacity(histories.len());
        for backend in snapshot.backends() {
            let mut before = histories.remove(&backend.id).unwrap_or_default();
            let now = live.clock().now();
            for gone in backend.with_fleet(|fleet| fleet.review(&mut before.history, now)) {
                backend.metrics.ejected(gone.reason as usize);
                let (endpoint, why) = (gone.cell.address(), gone.reason.word());
                tracing::info!(backend = %backend.name, %endpoint, why, "ejected");
            }
            // Those that share a name beyond the bound on names have no number in common.
            if (backend.is_limited() || before.limited) && backend.metrics.name() != OTHER {
                let view = backend.limiter().map(|limiter| limiter.view(now));
                before.limited = view.is_some();
                backend.metrics.concurrency(view.map(|view| Concurrency {
                    limit: view.limit.into(),
                    in_flight: view.in_flight.into(),
                    queued: view.queued.into(),
                }));
            }
            if looks.is_multiple_of(PANIC_LOOKS) {
                let now_panics = backend.with_fleet(|fleet| fleet.is_panicking(now));
                if now_panics && !before.panics {
                    backend.metrics.panicked();
                    tracing::warn!(backend = %backend.name, "so few endpoints are available that this is ignored");
                }
                before.panics = now_panics;
            }
            kept.insert(backend.id, before);
        }
        histories = kept;
    }
}

/// What is remembered of a backend from one look to the next.
#[derive(Default)]
struct Before {
    history: History,
    panics: bool,
    limited: bool,
}
