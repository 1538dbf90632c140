//! When endpoints are set aside for what they do to requests.

use std::time::Duration;

use super::percent;
use crate::config::convert::{DAY, Pass, SHORT};
use crate::config::diagnostic::Diagnostic;
use crate::config::place::Placed;
use crate::config::raw::backend::{RawEjection, RawFailureShare, RawLatencyOutlier, RawSuccessRate};
use crate::config::units;
use crate::model::{Comparable, Ejection, FailureShareOutlier, LatencyOutlier, SuccessRateOutlier};

/// Ejection as it is said; none when it is turned off.
pub fn ejection(pass: &mut Pass, raw: Option<&RawEjection>) -> Option<Ejection> {
    let default = Ejection::default();
    let Some(raw) = raw else { return Some(default) };
    let ejection = Ejection {
        consecutive_failures: pass.count(
            "consecutive_failures",
            raw.consecutive_failures.as_ref(),
            default.consecutive_failures,
            1..=1_000_000,
        ),
        gateway_failures: raw
            .gateway_failures
            .as_ref()
            .map(|count| pass.count("gateway_failures", Some(count), 1, 1..=1_000_000)),
        interval: pass.duration(
            "interval",
            raw.interval.as_ref(),
            default.interval,
            Duration::from_millis(100)..=DAY,
        ),
        success_rate: success_rate(pass, raw.success_rate.as_ref()),
        failure_share: raw
            .failure_share
            .as_ref()
            .and_then(|raw| failure_share(pass, raw)),
        latency: raw.latency.as_ref().and_then(|raw| latency(pass, raw)),
        ends_on_check: is_on(raw.ends_on_check.as_ref(), default.ends_on_check),
        base: pass.duration("base", raw.base.as_ref(), default.base, SHORT..=DAY),
        max: pass.duration("max", raw.max.as_ref(), default.max, SHORT..=DAY),
        max_percent: percent(pass, raw.max_percent.as_ref(), default.max_percent),
    };
    if let (Some(most), Some(raw)) = (ejection.gateway_failures, &raw.gateway_failures)
        && most > ejection.consecutive_failures
    {
        let first = ejection.consecutive_failures;
        pass.say(
            Diagnostic::warning(
                raw.place,
                format!(
                    "gateway_failures ({most}) changes nothing: consecutive_failures ({first}) comes first"
                ),
            )
            .hint("these are failures, too; give it a lower number"),
        );
    }
    if let Some(text) = raw.base.as_ref().or(raw.max.as_ref())
        && ejection.base > ejection.max
    {
        let (base, max) = (ejection.base, ejection.max);
        let show = units::show_duration;
        pass.error(
            text.place(),
            format!("base ({}) is longer than max ({})", show(base), show(max)),
        );
    }
    is_on(raw.enabled.as_ref(), true).then_some(ejection)
}

fn success_rate(pass: &mut Pass, raw: Option<&RawSuccessRate>) -> Option<SuccessRateOutlier> {
    let default = SuccessRateOutlier::default();
    let Some(raw) = raw else { return Some(default) };
    let outlier = SuccessRateOutlier {
        among: among(
            pass,
            raw.min_endpoints.as_ref(),
            raw.min_requests.as_ref(),
            &default.among,
        ),
        deviation: pass.count(
            "deviation",
            raw.deviation.as_ref(),
            default.deviation,
            1..=100_000,
        ),
    };
    is_on(raw.enabled.as_ref(), true).then_some(outlier)
}

fn failure_share(pass: &mut Pass, raw: &RawFailureShare) -> Option<FailureShareOutlier> {
    let default = FailureShareOutlier::default();
    let outlier = FailureShareOutlier {
        among: among(
            pass,
            raw.min_endpoints.as_ref(),
            raw.min_requests.as_ref(),
            &default.among,
        ),
        percent: percent(pass, raw.percent.as_ref(), default.percent),
    };
    if let Some(text) = &raw.percent
        && outlier.percent == 0
    {
        pass.say(
            Diagnostic::error(
                text.place(),
                "at 0% every endpoint would go, also one that never fails",
            )
            .hint("write 1% or more"),
        );
    }
    is_on(raw.enabled.as_ref(), false).then_some(outlier)
}

fn latency(pass: &mut Pass, raw: &RawLatencyOutlier) -> Option<LatencyOutlier> {
    let default = LatencyOutlier::default();
    let outlier = LatencyOutlier {
        among: among(
            pass,
            raw.min_endpoints.as_ref(),
            raw.min_requests.as_ref(),
            &default.among,
        ),
        times: pass.count("times", raw.times.as_ref(), default.times, 2..=1000),
    };
    is_on(raw.enabled.as_ref(), false).then_some(outlier)
}

fn among(
    pass: &mut Pass,
    endpoints: Option<&Placed<u32>>,
    requests: Option<&Placed<u32>>,
    default: &Comparable,
) -> Comparable {
    Comparable {
        min_endpoints: pass.count("min_endpoints", endpoints, default.min_endpoints, 2..=100_000),
        min_requests: pass.count("min_requests", requests, default.min_requests, 1..=1_000_000_000),
    }
}

fn is_on(raw: Option<&Placed<bool>>, default: bool) -> bool {
    raw.map_or(default, |on| on.value)
}
