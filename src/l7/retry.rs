//! Retries: whether a failed attempt is worth, and safe for, another one. Pure.
//!
//! What never left may always go to another endpoint. What left may be sent again only if doing it twice does no harm
//! (an idempotent method, RFC 9110 §9.2.2), its body can be sent again, and the policy names the failure. All of it is
//! bounded by the number of tries and by the backend's budget: retries are a share of requests, so that a backend that
//! is failing as a whole is not buried under them.

use http::{Method, StatusCode};

use super::failure::{Blame, Failure};
use crate::model::RetryPolicy;

/// How an attempt ended that may be worth another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The request provably never left.
    Unsent(Failure),
    /// The request, or part of it, was sent.
    Sent(Failure),
    /// The endpoint answered with this status.
    Answered(StatusCode),
}

/// What is known about the exchange when an attempt has ended.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Tries made so far, this one included.
    pub tries: u8,
    /// The method.
    pub method: &'a Method,
    /// Whether the body can be sent again from its start.
    pub replayable: bool,
    /// The rule's policy.
    pub policy: &'a RetryPolicy,
}

/// Whether another try is wanted, the budget aside.
pub fn wants_another(attempt: Attempt<'_>, ended: Ended) -> bool {
    if attempt.tries >= attempt.policy.attempts || !attempt.replayable {
        return false;
    }
    let on = &attempt.policy.on;
    match ended {
        Ended::Unsent(failure) => on.connect_failure && failure.blame() == Blame::Endpoint,
        Ended::Sent(failure) => {
            let named = match failure {
                Failure::Reset | Failure::Protocol => on.reset,
                Failure::TryTimeout => on.timeout,
                _ => false,
            };
            named && attempt.method.is_idempotent()
        }
        Ended::Answered(status) => on.statuses.contains(&status) && attempt.method.is_idempotent(),
    }
}

/// Whether the request's head must be kept for another try that may come after it was sent.
pub fn may_send_again(method: &Method, policy: &RetryPolicy) -> bool {
    let on = &policy.on;
    policy.attempts > 1 && method.is_idempotent() && (on.reset || on.timeout || !on.statuses.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_safe_and_named_is_tried_again() {
        let policy = RetryPolicy {
            attempts: 3,
            ..RetryPolicy::default()
        };
        let mut named = policy.clone();
        named.on.statuses = vec![StatusCode::SERVICE_UNAVAILABLE];
        named.on.timeout = true;
        let unavailable = Ended::Answered(StatusCode::SERVICE_UNAVAILABLE);
        let unsent = Ended::Unsent(Failure::ConnectRefused);
        let reset = Ended::Sent(Failure::Reset);
        let timeout = Ended::Sent(Failure::TryTimeout);
        for (tries, method, replayable, policy, ended, expected) in [
            (1, Method::GET, true, &policy, unsent, true),
            (1, Method::POST, true, &policy, unsent, true),
            (1, Method::POST, false, &policy, unsent, false),
            (3, Method::GET, true, &policy, unsent, false),
            (1, Method::GET, true, &policy, reset, true),
            (1, Method::PUT, true, &policy, reset, true),
            (1, Method::POST, true, &policy, reset, false),
            (1, Method::PUT, false, &policy, reset, false),
            (1, Method::GET, true, &policy, timeout, false),
            (1, Method::GET, true, &named, timeout, true),
            (1, Method::GET, true, &policy, unavailable, false),
            (1, Method::GET, true, &named, unavailable, true),
            (1, Method::POST, true, &named, unavailable, false),
            (
                1,
                Method::GET,
                true,
                &named,
                Ended::Unsent(Failure::NoEndpoint),
                false,
            ),
            (
                1,
                Method::GET,
                true,
                &named,
                Ended::Sent(Failure::RequestTimeout),
                false,
            ),
        ] {
            let attempt = Attempt {
                tries,
                method: &method,
                replayable,
                policy,
            };
            assert_eq!(wants_another(attempt, ended), expected, "{attempt:?} {ended:?}");
        }
        assert!(may_send_again(&Method::GET, &policy) && !may_send_again(&Method::POST, &policy));
    }
}
