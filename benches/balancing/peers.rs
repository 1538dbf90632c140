//! The others, from their published formulas. Each file names its sources; what is left open there was decided in favour of the
//! peer.

mod health;
mod least_request;
mod least_time;
mod peak_ewma;
mod prequal;
mod round_robin;

use fastrand::Rng;

pub use health::Health;
pub use least_request::LeastRequest;
pub use least_time::LeastTime;
pub use peak_ewma::PeakEwma;
pub use prequal::Prequal;
pub use round_robin::RoundRobin;

use super::balancer::Member;
use super::server::Time;

/// Any member, by weight.
fn any<'a>(members: &[&'a Member], rng: &mut Rng) -> Option<&'a Member> {
    let weights: u32 = members.iter().map(|member| member.weight).sum();
    if members.iter().all(|member| member.weight == 1) {
        return rng.choice(members).copied();
    }
    let mut left = rng.u32(..weights.max(1));
    members.iter().copied().find(|member| {
        let found = left < member.weight;
        left = left.saturating_sub(member.weight);
        found
    })
}

/// So many different members, by weight (all, if there are not more).
fn some<'a>(members: &[&'a Member], choices: usize, rng: &mut Rng) -> Vec<&'a Member> {
    if choices >= members.len() {
        return members.to_vec();
    }
    let mut drawn: Vec<&Member> = Vec::with_capacity(choices);
    while drawn.len() < choices {
        match any(members, rng) {
            Some(member) if drawn.iter().all(|other| other.endpoint != member.endpoint) => {
                drawn.push(member);
            }
            Some(_) => {}
            None => break,
        }
    }
    drawn
}

/// What is kept for each endpoint, by its number.
#[derive(Default)]
struct PerEndpoint<T>(Vec<T>);

impl<T: Default> PerEndpoint<T> {
    fn get(&mut self, endpoint: u32) -> &mut T {
        let index = endpoint as usize;
        if index >= self.0.len() {
            self.0.resize_with(index + 1, T::default);
        }
        &mut self.0[index]
    }
}

fn seconds(time: Time) -> f64 {
    time as f64 / 1e6
}
