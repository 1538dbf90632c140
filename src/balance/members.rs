//! Who belongs to a fleet: endpoints of the model joined with the cells that are known of them.
//!
//! An address that stays keeps its cell, and with it what is known of it, its exchanges in flight and its
//! ejection. Endpoints that drain take requests only when no active one is left, as kube-proxy has it; their
//! cells stay as long as the model lists them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::choose::Lane;
use super::{EndpointCell, Micros};
use crate::model::{Endpoint, EndpointState};

/// One endpoint of a fleet.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What is known of it.
    pub cell: Arc<EndpointCell>,
    /// What the model says of it.
    pub endpoint: Endpoint,
}

/// The endpoints with their cells, the active ones first, each address once: of two with one address the active
/// one counts, otherwise the first. `previous` gives the cells of addresses that it had.
pub(super) fn candidates(
    endpoints: &[Endpoint],
    previous: Option<&[Candidate]>,
    now: Micros,
) -> Box<[Candidate]> {
    let known: HashMap<SocketAddr, &Arc<EndpointCell>> = previous
        .into_iter()
        .flatten()
        .map(|candidate| (candidate.endpoint.address, &candidate.cell))
        .collect();
    let mut places: HashMap<SocketAddr, usize> = HashMap::with_capacity(endpoints.len());
    let mut chosen: Vec<&Endpoint> = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        match places.entry(endpoint.address) {
            Entry::Vacant(place) => {
                place.insert(chosen.len());
                chosen.push(endpoint);
            }
            Entry::Occupied(place) => {
                if let Some(other) = chosen.get_mut(*place.get())
                    && is_draining(other)
                {
                    *other = endpoint;
                }
            }
        }
    }
    chosen.sort_by_key(|endpoint| is_draining(endpoint));
    chosen
        .into_iter()
        .map(|endpoint| Candidate {
            cell: known.get(&endpoint.address).map_or_else(
                || EndpointCell::new(endpoint.address, now),
                |cell| Arc::clone(cell),
            ),
            endpoint: endpoint.clone(),
        })
        .collect()
}

/// Those that were not there before take no requests until a check goes well; but not if nobody was there at all.
pub(super) fn hold_back(candidates: &[Candidate], known: &[Candidate], now: Micros) {
    if known.is_empty() {
        return;
    }
    let known: HashSet<u64> = known.iter().map(|candidate| candidate.cell.id()).collect();
    for candidate in candidates {
        if !known.contains(&candidate.cell.id()) {
            candidate.cell.set_checked_health(false, now);
        }
    }
}

/// How many of the candidates take requests, which are the first ones: the active, or all if none is.
pub(super) fn takers(candidates: &[Candidate]) -> usize {
    let active = candidates
        .iter()
        .take_while(|candidate| !is_draining(&candidate.endpoint))
        .count();
    if active == 0 { candidates.len() } else { active }
}

/// Those that take requests, as the choice sees them.
pub(super) fn lanes(takers: &[Candidate]) -> Box<[Lane]> {
    let sum: f64 = takers
        .iter()
        .map(|taker| f64::from(taker.endpoint.weight.max(1)))
        .sum();
    let mean = sum / takers.len() as f64;
    takers
        .iter()
        .map(|taker| {
            let weight = f64::from(taker.endpoint.weight.max(1)) / mean;
            Lane {
                cell: Arc::clone(&taker.cell),
                weight: weight as f32,
                per_weight: (1.0 / weight) as f32,
            }
        })
        .collect()
}

fn is_draining(endpoint: &Endpoint) -> bool {
    endpoint.state == EndpointState::Draining
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(100_000_000);

    fn active(port: u16) -> Endpoint {
        Endpoint::at(([10, 0, 0, 1], port).into())
    }

    fn draining(port: u16) -> Endpoint {
        Endpoint {
            state: EndpointState::Draining,
            ..active(port)
        }
    }

    fn ports(candidates: &[Candidate]) -> Vec<u16> {
        let ports = candidates
            .iter()
            .map(|candidate| candidate.endpoint.address.port());
        ports.collect()
    }

    #[test]
    fn cells_are_carried_over_by_address() {
        let old = candidates(&[active(1), active(2), draining(3)], None, NOW);
        let new = candidates(&[active(3), active(4), draining(2)], Some(&old), NOW);
        assert_eq!(ports(&new), [3, 4, 2]);
        assert!(Arc::ptr_eq(&new[0].cell, &old[2].cell));
        assert!(Arc::ptr_eq(&new[2].cell, &old[1].cell));
        assert!(
            old.iter()
                .all(|candidate| candidate.cell.id() != new[1].cell.id())
        );
    }

    #[test]
    fn only_those_that_come_later_are_held_back() {
        let old = candidates(&[active(1)], None, NOW);
        hold_back(&old, &[], NOW);
        let new = candidates(&[active(1), active(2)], Some(&old), NOW);
        hold_back(&new, &old, NOW);
        let healthy = new.iter().map(|candidate| candidate.cell.is_checked_healthy());
        assert_eq!(healthy.collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn an_address_counts_once_and_the_active_ones_come_first() {
        let given = [
            draining(1),
            active(2),
            active(1),
            draining(2),
            active(2),
            draining(3),
        ];
        let candidates = candidates(&given, None, NOW);
        assert_eq!(ports(&candidates), [1, 2, 3]);
        let active = candidates
            .iter()
            .map(|candidate| !is_draining(&candidate.endpoint));
        assert_eq!(active.collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn draining_endpoints_take_requests_only_when_there_is_no_other() {
        // Endpoints, and how many of the candidates take requests.
        for (given, takers) in [
            (&[][..], 0),
            (&[draining(1), active(2), draining(3)], 1),
            (&[draining(1), draining(3)], 2),
        ] {
            assert_eq!(super::takers(&candidates(given, None, NOW)), takers, "{given:?}");
        }
    }

    #[test]
    fn weights_are_relative_to_their_mean() {
        let weighted = |port, weight| Endpoint {
            weight,
            ..active(port)
        };
        let lanes = lanes(&candidates(&[weighted(1, 100), weighted(2, 300)], None, NOW));
        let weights: Vec<(f32, f32)> = lanes.iter().map(|lane| (lane.weight, lane.per_weight)).collect();
        assert_eq!(weights, [(0.5, 2.0), (1.5, 1.0 / 1.5)]);
    }
}
