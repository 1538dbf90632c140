//! What endpoints say of their load, and what becomes of it.
//!
//! A proxy knows exactly what it has sent to an endpoint itself, and nothing of what others send there. With one proxy that is
//! all; with fifty it is a fiftieth, and least-latency has to guess the rest from latencies. Endpoints can say it: ORCA (Open Request
//! Cost Aggregation, `xds.data.orca.v3.OrcaLoadReport`) is a field of the response, `endpoint-load-metrics`, in one of three forms, all
//! of which Envoy and gRPC know:
//!
//! ```text
//! endpoint-load-metrics: TEXT application_utilization=0.8, cpu_utilization=0.7, named_metrics.in_flight=12
//! endpoint-load-metrics: JSON {"cpu_utilization": 0.7, "named_metrics": {"in_flight": 12}}
//! endpoint-load-metrics: BIN <protobuf in base64>        endpoint-load-metrics-bin: <protobuf in base64>
//! ```
//!
//! What is read is `named_metrics.in_flight`, requests in flight at the endpoint from everybody (Prequal's RIF), or, if that is not
//! given, the utilisation `u` (`application_utilization`, otherwise `cpu_utilization`, as gRPC's A58 has it), which stands for the
//! `u / (1 - u)` requests that a queue so busy has on average. All others are passed over.
//!
//! The mean latency of an endpoint already has in it what others usually do there. So a report says only how much more (or less) there
//! is to do than usual, and changes the latency to reckon with by the square root of that, because some work is done at the same time:
//!
//! ```text
//! usual  = mean over about 32 reports of log(1 + in flight)
//! factor = sqrt((1 + in flight) / exp(usual)), fading to 1:  1 + (factor - 1) / (1 + age/100 ms)
//! ```
//!
//! Adding reported requests to our own in flight was tried and is worse: a load that is reported seldom is only noise, and the
//! slowest endpoints report the least. (`docs/balancing`: "many proxies".) Fading: what a report tells of is gone after some latencies.
//! **Start-up**: the first report is what is usual. **Recovery**: the next report replaces the last.

mod wire;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde::Deserialize;
use thiserror::Error;

/// What an endpoint says of its load. Numbers are finite and not negative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// The part of what the application can do, as it sees it; may be above 1.
    pub application_utilization: Option<f32>,
    /// The part of its processors; may be above 1.
    pub cpu_utilization: Option<f32>,
    /// Requests in flight, from everybody.
    pub in_flight: Option<f32>,
}

/// Why a report cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LoadError {
    /// Longer than a report may be.
    #[error("longer than {MAX_REPORT} bytes")]
    TooLong,
    /// It begins with none of `TEXT`, `JSON`, `BIN`.
    #[error("neither TEXT nor JSON nor BIN")]
    UnknownForm,
    /// It is not what its form demands.
    #[error("not what its form demands")]
    Malformed,
    /// A number is negative, infinite or none.
    #[error("a number that is negative or not finite")]
    BadNumber,
}

impl LoadReport {
    /// Reads the value of `endpoint-load-metrics`.
    pub fn of_field(value: &[u8]) -> Result<Self, LoadError> {
        if value.len() > MAX_REPORT {
            return Err(LoadError::TooLong);
        }
        match value.split_at_checked(5) {
            Some((b"TEXT ", text)) => text_report(text),
            Some((b"JSON ", json)) => json_report(json),
            _ => match value.strip_prefix(b"BIN ") {
                Some(binary) => wire::report(binary),
                None => Err(LoadError::UnknownForm),
            },
        }
    }

    /// Reads the value of `endpoint-load-metrics-bin`.
    pub fn of_binary_field(value: &[u8]) -> Result<Self, LoadError> {
        if value.len() > MAX_REPORT {
            return Err(LoadError::TooLong);
        }
        wire::report(value)
    }

    /// The utilisation that counts: the application's own, otherwise its processors'.
    pub fn utilization(&self) -> Option<f32> {
        self.application_utilization
            .filter(|part| *part > 0.0)
            .or(self.cpu_utilization)
    }

    fn set(&mut self, key: &[u8], number: f64) -> Result<(), LoadError> {
        let place = match key {
            b"application_utilization" => &mut self.application_utilization,
            b"cpu_utilization" => &mut self.cpu_utilization,
            b"named_metrics.in_flight" => &mut self.in_flight,
            _ => return Ok(()),
        };
        if !number.is_finite() || number < 0.0 {
            return Err(LoadError::BadNumber);
        }
        *place = Some(number.min(f64::from(f32::MAX)) as f32);
        Ok(())
    }
}

/// Longest report that is read, in bytes.
const MAX_REPORT: usize = 4096;
/// Age at which a report counts half, in microseconds.
const FADE_US: f32 = 100_000.0;
/// Weight of a report in what is usual.
const USUAL_WEIGHT: f32 = 1.0 / 32.0;
/// Highest utilisation that is told apart.
const MOST_UTILIZATION: f32 = 0.99;
/// Steps of 1 in what is stored: 16 at the most.
const STEPS: f32 = 4096.0;

/// What an endpoint's reports come to: in the high half the factor of its latency, in the low half the logarithm (base 2) of what is
/// usual; 0 before the first report.
#[derive(Debug, Default)]
pub(super) struct Reported(AtomicU32);

impl Reported {
    /// Takes a report.
    pub fn set(&self, report: &LoadReport) {
        let by_utilization = |part: f32| 1.0 / (1.0 - part.min(MOST_UTILIZATION));
        let load = match (report.in_flight, report.utilization()) {
            (Some(in_flight), _) => 1.0 + in_flight,
            (None, Some(part)) => by_utilization(part),
            (None, None) => return,
        };
        let load = load.log2();
        let usual = match self.0.load(Relaxed) {
            0 => load,
            bits => {
                let usual = (bits & 0xffff) as f32 / STEPS;
                usual + USUAL_WEIGHT * (load - usual)
            }
        };
        let factor = ((load - usual) / 2.0).exp2();
        self.0.store((stored(factor) << 16) | stored(usual), Relaxed);
    }

    /// Whether there was a report.
    pub fn is_known(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// By what to multiply the endpoint's latency; the report is so old.
    pub fn factor(&self, age_us: impl FnOnce() -> f32) -> f32 {
        match self.0.load(Relaxed) {
            0 => 1.0,
            bits => {
                let factor = (bits >> 16) as f32 / STEPS;
                1.0 + (factor - 1.0) * FADE_US / (FADE_US + age_us())
            }
        }
    }
}

fn stored(number: f32) -> u32 {
    // Saturates below 0, and what is none becomes 0.
    ((number * STEPS + 0.5) as u32).min(u32::from(u16::MAX))
}

fn text_report(text: &[u8]) -> Result<LoadReport, LoadError> {
    let mut report = LoadReport::default();
    for pair in text.split(|byte| *byte == b',') {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let (Some(key), Some(value)) = (parts.next(), parts.next()) else {
            return Err(LoadError::Malformed);
        };
        let value = str::from_utf8(value.trim_ascii()).map_err(|_| LoadError::Malformed)?;
        let number = value.parse().map_err(|_| LoadError::Malformed)?;
        report.set(key.trim_ascii(), number)?;
    }
    Ok(report)
}

/// Protobuf's JSON has both spellings of names.
#[derive(Deserialize)]
struct Json {
    #[serde(alias = "applicationUtilization")]
    application_utilization: Option<f64>,
    #[serde(alias = "cpuUtilization")]
    cpu_utilization: Option<f64>,
    #[serde(alias = "namedMetrics")]
    named_metrics: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    in_flight: Option<f64>,
}

fn json_report(json: &[u8]) -> Result<LoadReport, LoadError> {
    let json: Json = serde_json::from_slice(json).map_err(|_| LoadError::Malformed)?;
    let mut report = LoadReport::default();
    let named = json.named_metrics.and_then(|named| named.in_flight);
    for (key, number) in [
        (&b"application_utilization"[..], json.application_utilization),
        (b"cpu_utilization", json.cpu_utilization),
        (b"named_metrics.in_flight", named),
    ] {
        if let Some(number) = number {
            report.set(key, number)?;
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(application: Option<f32>, cpu: Option<f32>, in_flight: Option<f32>) -> LoadReport {
        LoadReport {
            application_utilization: application,
            cpu_utilization: cpu,
            in_flight,
        }
    }

    #[test]
    fn text_and_json() {
        let all = report(Some(0.75), Some(0.5), Some(12.0));
        for (field, expected) in [
            (
                "TEXT application_utilization=0.75, cpu_utilization=0.5, named_metrics.in_flight=12",
                Ok(all),
            ),
            (
                "TEXT application_utilization=0.75,cpu_utilization=0.5,eps=3,named_metrics.in_flight=12.0",
                Ok(all),
            ),
            ("TEXT mem_utilization=0.5", Ok(LoadReport::default())),
            (
                r#"JSON {"application_utilization": 0.75, "cpu_utilization": 0.5, "named_metrics": {"in_flight": 12}}"#,
                Ok(all),
            ),
            (
                r#"JSON {"applicationUtilization":0.75,"cpuUtilization":0.5,"utilization":{"x":1},"namedMetrics":{"in_flight":12,"y":1}}"#,
                Ok(all),
            ),
            (r#"JSON {}"#, Ok(LoadReport::default())),
            ("TEXT cpu_utilization=1.5", Ok(report(None, Some(1.5), None))),
            ("TEXT cpu_utilization=-1", Err(LoadError::BadNumber)),
            ("TEXT cpu_utilization=inf", Err(LoadError::BadNumber)),
            ("TEXT cpu_utilization=NaN", Err(LoadError::BadNumber)),
            (r#"JSON {"cpu_utilization": -1}"#, Err(LoadError::BadNumber)),
            ("TEXT cpu_utilization", Err(LoadError::Malformed)),
            ("TEXT cpu_utilization=", Err(LoadError::Malformed)),
            ("TEXT ", Err(LoadError::Malformed)),
            (r#"JSON {"cpu_utilization": "a"}"#, Err(LoadError::Malformed)),
            ("JSON", Err(LoadError::UnknownForm)),
            ("cpu_utilization=0.3", Err(LoadError::UnknownForm)),
            ("", Err(LoadError::UnknownForm)),
        ] {
            assert_eq!(LoadReport::of_field(field.as_bytes()), expected, "{field}");
        }
        let long = vec![b'a'; MAX_REPORT + 1];
        assert_eq!(LoadReport::of_field(&long), Err(LoadError::TooLong));
        assert_eq!(LoadReport::of_binary_field(&long), Err(LoadError::TooLong));
    }

    #[test]
    fn the_applications_own_utilisation_goes_first() {
        assert_eq!(report(Some(0.75), Some(0.5), None).utilization(), Some(0.75));
        assert_eq!(report(Some(0.0), Some(0.5), None).utilization(), Some(0.5));
        assert_eq!(report(None, None, Some(3.0)).utilization(), None);
    }

    #[test]
    fn the_first_report_is_what_is_usual_and_the_next_are_compared_with_it() {
        let reported = Reported::default();
        assert_eq!(reported.factor(|| 0.0), 1.0);
        reported.set(&report(None, None, None));
        assert_eq!(reported.factor(|| 0.0), 1.0);
        reported.set(&report(None, None, Some(3.0)));
        assert_eq!(reported.factor(|| 0.0), 1.0);
        // In flight, age, factor (a little nearer to 1, because what is usual follows).
        for (in_flight, age_us, expected) in [
            (15.0, 0.0, 1.96),
            (15.0, 100_000.0, 1.47),
            (15.0, 1e9, 1.0),
            (0.0, 0.0, 0.51),
            (1e30, 0.0, 16.0),
        ] {
            let reported = Reported(AtomicU32::new(reported.0.load(Relaxed)));
            reported.set(&report(None, None, Some(in_flight)));
            let factor = reported.factor(|| age_us);
            assert!((factor - expected).abs() < 0.03, "{in_flight} {age_us}: {factor}");
        }
        for _ in 0..300 {
            reported.set(&report(None, None, Some(15.0)));
        }
        assert!(reported.factor(|| 0.0) < 1.02, "usual by now");
    }

    #[test]
    fn utilisation_stands_for_the_queue_of_its_kind() {
        let reported = Reported::default();
        reported.set(&report(None, Some(0.5), None));
        reported.set(&report(None, Some(0.875), None));
        assert!((reported.factor(|| 0.0) - 1.96).abs() < 0.03);
        reported.set(&report(None, Some(9.0), None));
        assert!(reported.factor(|| 0.0) < 7.1, "nobody is busier than 99 %");
    }

    proptest! {
        #[test]
        fn nothing_that_an_endpoint_says_does_harm(field in proptest::collection::vec(any::<u8>(), 0..80)) {
            for form in [&b""[..], b"TEXT ", b"JSON ", b"BIN "] {
                let value = [form, &field].concat();
                let reads = [LoadReport::of_field(&value), LoadReport::of_binary_field(&value)];
                for report in reads.into_iter().flatten() {
                    let numbers = [report.application_utilization, report.cpu_utilization, report.in_flight];
                    prop_assert!(numbers.into_iter().flatten().all(|number| number.is_finite() && number >= 0.0));
                }
            }
        }
    }
}
