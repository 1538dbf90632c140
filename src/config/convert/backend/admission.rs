//! How many requests a backend is given at once.

use crate::config::convert::Pass;
use crate::config::diagnostic::Diagnostic;
use crate::config::place::Placed;
use crate::config::raw::backend::RawConcurrencyShape;
use crate::config::raw::text::ConcurrencyText;
use crate::config::units;
use crate::model::{AdaptiveConcurrency, Concurrency};

/// A limit as it is said; none when there is none.
pub fn concurrency(
    pass: &mut Pass,
    text: Option<&ConcurrencyText>,
    shape: Option<&Placed<RawConcurrencyShape>>,
) -> Option<Concurrency> {
    let read = text.map(|text| pass.unit(text.place(), units::concurrency(text.text())));
    let concurrency = read.unwrap_or(Some(None));
    let adaptive = shape.map(|raw| adaptive(pass, &raw.value));
    match (concurrency, shape) {
        (Some(Some(Concurrency::Adaptive(default))), _) => {
            Some(Concurrency::Adaptive(adaptive.unwrap_or(default)))
        }
        (Some(other), Some(raw)) => {
            pass.say(
                Diagnostic::error(raw.place, "a shape is only for a concurrency that is adaptive")
                    .hint("write concurrency: adaptive, or leave the shape out"),
            );
            other
        }
        (other, _) => other.flatten(),
    }
}

fn adaptive(pass: &mut Pass, raw: &RawConcurrencyShape) -> AdaptiveConcurrency {
    let default = AdaptiveConcurrency::default();
    let adaptive = AdaptiveConcurrency {
        min: pass.count("min", raw.min.as_ref(), default.min, 1..=units::MOST_CONCURRENT),
        max: pass.count("max", raw.max.as_ref(), default.max, 1..=units::MOST_CONCURRENT),
        tolerance_percent: raw.tolerance.as_ref().map_or(default.tolerance_percent, |text| {
            match pass.unit(text.place(), units::excess(text.text())) {
                Some(Some(percent)) => percent,
                Some(None) => {
                    pass.say(
                        Diagnostic::error(text.place(), "a limit without a tolerance would never fall")
                            .hint("write it like 150%"),
                    );
                    default.tolerance_percent
                }
                None => default.tolerance_percent,
            }
        }),
    };
    if let Some(wrong) = raw.min.as_ref().or(raw.max.as_ref())
        && adaptive.min > adaptive.max
    {
        let (min, max) = (adaptive.min, adaptive.max);
        pass.error(wrong.place, format!("min ({min}) is more than max ({max})"));
    }
    adaptive
}
