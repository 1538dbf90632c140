//! Balancing: which endpoint of a backend takes the next exchange.
//!
//! An [`EndpointCell`] holds what is known of one endpoint: how fast it answers, how much it has to
//! do, whether it fails. All workers write to it, with relaxed atomics on lines of its own, and it
//! outlives the sets it is part of. A [`Fleet`] is one such set: the endpoints of a backend with
//! the backend's policy, immutable and replaced whole. [`Fleet::pick`] decides, [`InFlight`] tells
//! the cell how it went, [`Fleet::judge`] sets an endpoint aside that only fails, and [`Fleet::review`] those that do
//! clearly worse than the others.
//!
//! What ties requests to endpoints, by hash or by cookie, is a [`Tie`].
//!
//! Nothing here waits, locks, allocates on the way of a request or looks at a clock: `now` and
//! chance are arguments, so that a simulator in virtual time drives the very code that serves.

mod budget;
mod cell;
mod choose;
mod clock;
mod cost;
mod ejection;
mod estimate;
mod fleet;
mod gradient;
mod hash;
mod hedge;
mod limiter;
mod load;
mod members;
mod outlier;
mod parts;
mod rotation;
mod shed;
#[cfg(test)]
mod simulation;
mod table;
mod tie;
mod waiting;

pub use budget::RetryBudget;
pub use cell::{CellView, ConnectionSlot, EndpointCell, InFlight, Observed};
pub use clock::{Clock, Micros};
pub use ejection::Reason;
pub use fleet::{Fleet, Pick};
pub use hash::{hash_of, hash_of_ip, tag_of};
pub use hedge::Hedging;
pub use limiter::{Entry, LimitView, Limiter, Permit, Ticket};
pub use load::{LoadError, LoadReport};
pub use members::Candidate;
pub use outlier::{Ejected, History};
pub use parts::{PartView, Vantage};
pub use shed::pause;
pub use tie::{How, Picked, Tie};
