//! Retries: whether a failed attempt is worth, and safe for, another one, and how long to wait before it. Pure.
//!
//! What never left may always go to another endpoint. What left may be sent again only if doing it twice does no harm
//! (an idempotent method, RFC 9110 §9.2.2), its body can be sent again, and the policy names the failure. All of it is
//! bounded by the number of tries and by the backend's budget: retries are a share of requests, so that a backend that
//! is failing as a whole is not buried under them.
//!
//! Every gRPC call is a POST. Whether one may be made twice only its author knows, and says so by naming gRPC statuses (as in gRPC's
//! own retry policy, gRFC A6). Statuses are seen where they come with the response's head: calls that failed before an answer.
//!
//! The pause before the n-th retry (n from 1), with `chance` evenly spread from 0 to 1 so that clients do not come back together:
//!
//! ```text
//! pause = max(backoff * 2^(n-1) * (1 + chance/2), what the endpoint asks for)
//! ```
//!
//! An endpoint asks by `Retry-After` (RFC 9110 §10.2.3) or `grpc-retry-pushback-ms` (gRFC A6, where a negative number says never). If it
//! asks for more than `max_wait`, or the pause would last to the request's deadline, there is no retry, and what there is goes to
//! the client at once.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::failure::{Blame, Failure};
use crate::model::{GrpcStatus, RetryOn, RetryPolicy};

/// How an attempt ended that may be worth another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The request provably never left.
    Unsent(Failure),
    /// The request, or part of it, was sent.
    Sent(Failure),
    /// The endpoint answered.
    Answered(Status),
}

/// What an endpoint's answer says of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The response's status.
    pub http: StatusCode,
    /// The call's, if it failed, came with the head, and the policy asks for it.
    pub grpc: Option<GrpcStatus>,
}

impl Status {
    /// The status of a response under a policy.
    pub fn of(http: StatusCode, headers: &HeaderMap, on: &RetryOn) -> Self {
        let grpc = match on.grpc_statuses.is_empty() {
            true => None,
            false => headers
                .get(GRPC_STATUS)
                .and_then(|value| GrpcStatus::of_field(value.as_bytes())),
        };
        Self { http, grpc }
    }

    /// Whether a policy names it as worth another try.
    pub fn is_named(&self, on: &RetryOn) -> bool {
        on.statuses.contains(&self.http) || self.is_named_by_grpc(on)
    }

    fn is_named_by_grpc(&self, on: &RetryOn) -> bool {
        self.grpc.is_some_and(|grpc| on.grpc_statuses.contains(&grpc))
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

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

/// Whether another try is wanted, pause and budget aside.
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
        Ended::Answered(status) => {
            status.is_named_by_grpc(on) || (status.is_named(on) && attempt.method.is_idempotent())
        }
    }
}

/// Whether the request's head must be kept for another try that may come after it was sent.
pub fn may_send_again(method: &Method, policy: &RetryPolicy) -> bool {
    let on = &policy.on;
    let safe = method.is_idempotent() && (on.reset || on.timeout || !on.statuses.is_empty());
    policy.attempts > 1 && (safe || !on.grpc_statuses.is_empty())
}

/// What an endpoint says about being asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Not sooner than after this.
    Wait(Duration),
    /// Not at all.
    Never,
}

/// What a response says about asking again. What cannot be read says nothing, but in gRPC it says never.
pub fn asked(headers: &HeaderMap, now: SystemTime) -> Option<Asked> {
    if let Some(pushback) = headers.get(GRPC_PUSHBACK) {
        let ms = pushback.to_str().ok().and_then(|text| text.trim().parse().ok());
        return Some(ms.map_or(Asked::Never, |ms| Asked::Wait(Duration::from_millis(ms))));
    }
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has room for are a long time, too.
        true if !text.is_empty() => Duration::from_secs(text.parse().unwrap_or(u64::MAX)),
        _ => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(now).unwrap_or_default()
        }
    };
    Some(Asked::Wait(wait))
}

/// The pause before another try; none if there is to be no other. `left`: until the request's deadline.
pub fn pause(
    attempt: Attempt<'_>,
    asked: Option<Asked>,
    left: Option<Duration>,
    chance: f32,
) -> Option<Duration> {
    let doublings = u32::from(attempt.tries.saturating_sub(1));
    let own = attempt.policy.backoff.map_or(Duration::ZERO, |backoff| {
        let doubled = backoff.saturating_mul(2_u32.saturating_pow(doublings));
        doubled.saturating_add(doubled.mul_f64(f64::from(chance.clamp(0.0, 1.0) / 2.0)))
    });
    let pause = match asked {
        Some(Asked::Never) => return None,
        Some(Asked::Wait(wait)) if wait > attempt.policy.max_wait => return None,
        Some(Asked::Wait(wait)) => wait.max(own),
        None => own,
    };
    (pause.is_zero() || left.is_none_or(|left| pause < left)).then_some(pause)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn answered(http: u16) -> Ended {
        Ended::Answered(Status {
            http: StatusCode::from_u16(http).unwrap(),
            grpc: None,
        })
    }

    fn called(grpc: &str) -> Ended {
        Ended::Answered(Status {
            http: StatusCode::OK,
            grpc: GrpcStatus::of_word(grpc),
        })
    }

    #[test]
    fn only_what_is_safe_and_named_is_tried_again() {
        let policy = RetryPolicy {
            attempts: 3,
            ..RetryPolicy::default()
        };
        let mut named = policy.clone();
        named.on.statuses = vec![StatusCode::SERVICE_UNAVAILABLE];
        named.on.grpc_statuses = vec![GrpcStatus::of_word("unavailable").unwrap()];
        named.on.timeout = true;
        let unavailable = answered(503);
        let unsent = Ended::Unsent(Failure::ConnectRefused);
        let reset = Ended::Sent(Failure::Reset);
        let timeout = Ended::Sent(Failure::TryTimeout);
        let nobody = Ended::Unsent(Failure::NoEndpoint);
        let late = Ended::Sent(Failure::RequestTimeout);
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
            (1, Method::GET, true, &named, answered(502), false),
            (1, Method::POST, true, &named, called("unavailable"), true),
            (1, Method::POST, false, &named, called("unavailable"), false),
            (1, Method::POST, true, &named, called("internal"), false),
            (1, Method::POST, true, &policy, called("unavailable"), false),
            (1, Method::GET, true, &named, nobody, false),
            (1, Method::GET, true, &named, late, false),
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
        assert!(may_send_again(&Method::POST, &named), "a call");
    }

    #[test]
    fn a_calls_status_is_looked_at_only_where_it_matters() {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_STATUS, HeaderValue::from_static("14"));
        let mut on = RetryOn::default();
        let status = Status::of(StatusCode::OK, &headers, &on);
        assert_eq!((status.grpc, status.is_named(&on)), (None, false));
        on.grpc_statuses = vec![GrpcStatus::of_word("unavailable").unwrap()];
        let status = Status::of(StatusCode::OK, &headers, &on);
        assert!(status.is_named(&on));
        headers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        assert_eq!(Status::of(StatusCode::OK, &headers, &on).grpc, None);
    }

    #[test]
    fn endpoints_say_when_to_come_again() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let wait = |ms| Some(Asked::Wait(Duration::from_millis(ms)));
        for (name, value, expected) in [
            ("retry-after", "0", wait(0)),
            ("retry-after", "2", wait(2000)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT", wait(3000)),
            ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", wait(0)),
            ("retry-after", "Sunday, 06-Nov-94 08:49:38 GMT", wait(1000)),
            (
                "retry-after",
                "99999999999999999999999",
                Some(Asked::Wait(Duration::from_secs(u64::MAX))),
            ),
            ("retry-after", "soon", None),
            ("retry-after", "-1", None),
            ("retry-after", "", None),
            ("retry-after", "1.5", None),
            ("grpc-retry-pushback-ms", "150", wait(150)),
            ("grpc-retry-pushback-ms", "0", wait(0)),
            ("grpc-retry-pushback-ms", "-1", Some(Asked::Never)),
            ("grpc-retry-pushback-ms", "x", Some(Asked::Never)),
            ("x-other", "1", None),
        ] {
            let mut headers = HeaderMap::new();
            let name = HeaderName::from_static(name);
            headers.insert(&name, HeaderValue::from_static(value));
            assert_eq!(asked(&headers, now), expected, "{name}: {value}");
        }
    }

    #[test]
    fn the_pause_grows_is_spread_and_ends_before_the_deadline() {
        let ms = Duration::from_millis;
        let wait = |time| Some(Asked::Wait(ms(time)));
        // Backoff, tries, what is asked, time left, chance, pause.
        for (backoff, tries, asked, left, chance, expected) in [
            (None, 1, None, None, 0.0, Some(0)),
            (None, 1, None, Some(0), 0.9, Some(0)),
            (Some(100), 1, None, None, 0.0, Some(100)),
            (Some(100), 1, None, None, 1.0, Some(150)),
            (Some(100), 3, None, None, 0.5, Some(500)),
            (Some(100), 2, None, Some(200), 0.0, None),
            (Some(100), 2, None, Some(201), 0.0, Some(200)),
            (None, 1, wait(300), None, 1.0, Some(300)),
            (Some(100), 1, wait(30), None, 0.0, Some(100)),
            (None, 1, wait(300), Some(300), 0.0, None),
            (None, 1, wait(0), Some(10), 0.0, Some(0)),
            (None, 1, wait(5000), None, 0.0, Some(5000)),
            (None, 1, wait(5001), None, 0.0, None),
            (None, 1, Some(Asked::Never), None, 0.0, None),
        ] {
            let policy = RetryPolicy {
                backoff: backoff.map(ms),
                ..RetryPolicy::default()
            };
            let attempt = Attempt {
                tries,
                method: &Method::GET,
                replayable: true,
                policy: &policy,
            };
            assert_eq!(
                pause(attempt, asked, left.map(ms), chance),
                expected.map(ms),
                "{backoff:?} {tries} {asked:?} {left:?} {chance}"
            );
        }
        let policy = RetryPolicy {
            attempts: u8::MAX,
            backoff: Some(Duration::MAX),
            ..RetryPolicy::default()
        };
        let attempt = Attempt {
            tries: u8::MAX,
            method: &Method::GET,
            replayable: true,
            policy: &policy,
        };
        assert_eq!(pause(attempt, None, None, 0.0), Some(Duration::MAX));
    }
}
