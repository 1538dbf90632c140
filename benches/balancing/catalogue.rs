//! All scenarios.

mod fleets;
mod load;
mod overload;
mod published;
mod sick;

use super::scenario::Scenario;

pub fn all() -> Vec<Scenario> {
    [
        published::all(),
        sick::all(),
        fleets::all(),
        load::all(),
        overload::all(),
    ]
    .concat()
}
