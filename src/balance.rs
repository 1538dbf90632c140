//! Balancing: which endpoint of a backend takes the next exchange.
//!
//! An [`EndpointCell`] holds what is known of one endpoint: how fast it answers, how much it has to
//! do, whether it fails. All workers write to it, with relaxed atomics on lines of its own, and it
//! outlives the sets it is part of. A [`Fleet`] is one such set: the endpoints of a backend with
//! the backend's policy, immutable and replaced whole. [`Fleet::pick`] decides, [`InFlight`] tells
//! the cell how it went, and [`Fleet::judge`] sets an endpoint aside that only fails.
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
mod hedge;
mod load;
mod members;
mod rotation;
#[cfg(test)]
mod simulation;
mod waiting;

pub use budget::RetryBudget;
pub use cell::{CellView, ConnectionSlot, EndpointCell, InFlight, Observed};
pub use clock::{Clock, Micros};
pub use fleet::{Fleet, Pick};
pub use hedge::{HedgePolicy, Hedging};
pub use load::{LoadError, LoadReport};
pub use members::Candidate;
