//! Admission: whether a request may go to its backend now, by the backend's limit and by how much the request matters.
//!
//! Asked once for an exchange, before anything is sent; other tries need no other permit. Backends without a limit
//! cost an exchange one look at a flag.

use http::HeaderMap;
use tokio::time::Instant;

use super::exchange::QUEUE_LOOK;
use super::failure::Failure;
use super::plan::Forward;
use super::worker::Worker;
use crate::balance::{Entry, Permit, Ticket};
use crate::model::Criticality;

/// The field of RFC 9218, whose words are its own.
const PRIORITY: &str = "priority";

/// How much a request matters: what its field says, and no more than its rule says.
pub fn class_of(forward: &Forward<'_>, headers: &HeaderMap) -> Criticality {
    let most = forward.rule.rule.criticality;
    let said = forward.backend.asks_criticality().then(|| {
        forward
            .backend
            .with_fleet(|fleet| read(headers, fleet.policy().criticality.as_ref()?))
    });
    class(most, said.flatten())
}

/// A request's class by the most that its rule allows and by what it says.
fn class(most: Option<Criticality>, said: Option<Criticality>) -> Criticality {
    match (most, said) {
        // The classes are in falling order.
        (Some(most), Some(said)) => most.max(said),
        (Some(class), None) | (None, Some(class)) => class,
        (None, None) => Criticality::default(),
    }
}

/// What a field says; none if it is not there, or is none of the words.
fn read(headers: &HeaderMap, field: &http::HeaderName) -> Option<Criticality> {
    let value = headers.get(field)?.as_bytes();
    match field.as_str() {
        PRIORITY => Some(Criticality::of_priority(value)),
        _ => Criticality::of_word(value.trim_ascii()),
    }
}

/// A place among those in flight at a backend that has a limit; waits for it, if the request may. Counts who is refused.
pub async fn admit(
    worker: &Worker,
    forward: &Forward<'_>,
    class: Criticality,
    deadline: Option<Instant>,
) -> Result<Option<Permit>, Failure> {
    let Some(limiter) = forward.backend.limiter() else {
        return Ok(None);
    };
    match limiter.enter(class, worker.now()) {
        Entry::Go(permit) => Ok(Some(permit)),
        Entry::Wait(ticket) => wait(worker, ticket, deadline).await.map(Some),
        Entry::Refused => Err(refuse(worker, forward, class)),
    }
}

/// A request is refused because of what it is.
pub fn refuse(worker: &Worker, forward: &Forward<'_>, class: Criticality) -> Failure {
    forward.backend.metrics.shed(worker.index, class.index());
    Failure::Shed
}

/// Whether a request of a class may wait for an endpoint when all are at their bounds.
pub fn may_queue(class: Criticality) -> bool {
    class <= Criticality::Critical
}

async fn wait(worker: &Worker, ticket: Ticket, deadline: Option<Instant>) -> Result<Permit, Failure> {
    let give_up = worker.clock.instant_of(ticket.until());
    loop {
        tokio::time::sleep(QUEUE_LOOK).await;
        if let Some(permit) = ticket.look(worker.now()) {
            return Ok(permit);
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Failure::RequestTimeout);
        }
        if now >= give_up {
            return Err(Failure::Overloaded);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use Criticality::{Critical, CriticalPlus, Sheddable, SheddablePlus};

    #[test]
    fn a_field_can_only_say_less_than_the_rule() {
        for (most, said, expected) in [
            (None, None, Critical),
            (None, Some(CriticalPlus), CriticalPlus),
            (None, Some(Sheddable), Sheddable),
            (Some(CriticalPlus), None, CriticalPlus),
            (Some(Critical), Some(CriticalPlus), Critical),
            (Some(Critical), Some(SheddablePlus), SheddablePlus),
            (Some(Sheddable), Some(Critical), Sheddable),
        ] {
            assert_eq!(class(most, said), expected, "{most:?} {said:?}");
        }
    }

    #[test]
    fn fields_are_read_in_their_own_words() {
        let ours = HeaderName::from_static("x-criticality");
        let priority = HeaderName::from_static("priority");
        for (field, value, expected) in [
            (&ours, Some("CRITICAL_PLUS"), Some(CriticalPlus)),
            (&ours, Some(" sheddable "), Some(Sheddable)),
            (&ours, Some("u=0"), None),
            (&ours, None, None),
            (&priority, Some("u=6, i"), Some(Sheddable)),
            (&priority, Some("i"), Some(Critical)),
            (&priority, None, None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(field.clone(), HeaderValue::from_static(value));
            }
            assert_eq!(read(&headers, field), expected, "{field} {value:?}");
        }
    }

    #[test]
    fn only_what_is_critical_waits() {
        let waits = Criticality::ALL.map(may_queue);
        assert_eq!(waits, [true, true, false, false]);
    }
}
