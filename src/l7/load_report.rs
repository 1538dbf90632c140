//! Reports of load in the fields of messages: what endpoints say of theirs, and what Tidegate says of its own.
//!
//! A report is a field of the response or of its trailers (ORCA, `src/balance/load.rs`). It is for whoever chose the endpoint, and
//! that is Tidegate: a client that balanced over several Tidegates by the load of whatever endpoint each of them chose would be
//! misled. So it is taken off, unless Tidegate stands beside the one endpoint that it speaks for (`pass_on`).
//!
//! Who wants reports asks for them with `endpoint-load-metrics-format: TEXT`, as model servers know it. Where a listener is told to
//! answer that, the report is Tidegate's own: the exchanges in flight in the whole process, in a form that any reader of ORCA
//! knows. Asked for by one Tidegate of another, it lets the first see what others send there.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::worker::Worker;
use crate::balance::{InFlight, LoadError, LoadReport};
use crate::snapshot::Backend;

const LOAD: HeaderName = HeaderName::from_static("endpoint-load-metrics");
const LOAD_BINARY: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");
/// Of requests: the form in which a report is wanted.
const FORMAT: HeaderName = HeaderName::from_static("endpoint-load-metrics-format");

/// Takes what an endpoint says of its load out of a response's fields or trailers, and tells the balancing.
pub fn take(worker: &Worker, backend: &Backend, in_flight: Option<&mut InFlight>, fields: &mut HeaderMap) {
    let Some(report) = read(fields) else {
        return;
    };
    let policy = backend.with_fleet(|fleet| fleet.policy().load_reports.clone());
    if !policy.pass_on {
        fields.remove(LOAD);
        fields.remove(LOAD_BINARY);
    }
    if policy.read {
        backend.metrics.load_report(worker.index, report.is_ok());
        if let (Ok(report), Some(in_flight)) = (report, in_flight) {
            in_flight.report(&report);
        }
    }
}

/// What is said; none if nothing is. The binary form goes first, as Envoy has it.
fn read(fields: &HeaderMap) -> Option<Result<LoadReport, LoadError>> {
    match fields.get(LOAD_BINARY) {
        Some(value) => Some(LoadReport::of_binary_field(value.as_bytes())),
        None => fields
            .get(LOAD)
            .map(|value| LoadReport::of_field(value.as_bytes())),
    }
}

/// Whether a request asks for a report in the one form that is given.
pub fn is_asked_for(fields: &HeaderMap) -> bool {
    fields
        .get(FORMAT)
        .is_some_and(|form| form.as_bytes().trim_ascii().eq_ignore_ascii_case(b"TEXT"))
}

/// Asks an endpoint for reports, whether the client did or not.
pub fn ask(fields: &mut HeaderMap) {
    fields.insert(FORMAT, HeaderValue::from_static("TEXT"));
}

/// Takes the client's question off a request: it is answered here.
pub fn keep_question(fields: &mut HeaderMap) {
    fields.remove(FORMAT);
}

/// Says how many exchanges are in flight, in the place of what an endpoint may have said.
pub fn tell(fields: &mut HeaderMap, in_flight: u64) {
    let text = format!("TEXT named_metrics.in_flight={in_flight}");
    if let Ok(report) = HeaderValue::from_maybe_shared(bytes::Bytes::from(text)) {
        fields.remove(LOAD_BINARY);
        fields.insert(LOAD, report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(of: &[(&HeaderName, &'static str)]) -> HeaderMap {
        let of = of.iter();
        of.map(|(name, value)| ((*name).clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_tidegate_tells_it_can_read() {
        let mut told = fields(&[
            (&LOAD_BINARY, "CQAAAAAAAOA/"),
            (&LOAD, "TEXT cpu_utilization=0.5"),
        ]);
        tell(&mut told, 12);
        assert_eq!(told.len(), 1);
        assert_eq!(read(&told).unwrap().unwrap().in_flight, Some(12.0));
    }

    #[test]
    fn the_binary_form_goes_first() {
        for (said, expected) in [
            (fields(&[]), None),
            (fields(&[(&LOAD, "TEXT cpu_utilization=0.25")]), Some(Ok(0.25))),
            (
                fields(&[
                    (&LOAD, "TEXT cpu_utilization=0.25"),
                    (&LOAD_BINARY, "CQAAAAAAAOA/"),
                ]),
                Some(Ok(0.5)),
            ),
            (fields(&[(&LOAD, "cpu=1")]), Some(Err(LoadError::UnknownForm))),
        ] {
            let read = read(&said).map(|report| report.map(|report| report.cpu_utilization.unwrap()));
            assert_eq!(read, expected, "{said:?}");
        }
    }

    #[test]
    fn a_question_is_known_by_its_form() {
        for (form, asks) in [("TEXT", true), ("text", true), ("JSON", false), ("", false)] {
            assert_eq!(is_asked_for(&fields(&[(&FORMAT, form)])), asks, "{form}");
        }
        let mut request = fields(&[(&FORMAT, "JSON")]);
        ask(&mut request);
        assert!(is_asked_for(&request));
        keep_question(&mut request);
        assert!(request.is_empty());
    }
}
