//! Fields on the way back: of responses, interim responses and trailers (RFC 9110 §6.5.1, §7.6.1).

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, DATE, EXPECT, FORWARDED, HOST, MAX_FORWARDS, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue};

use super::{KEEP_ALIVE, PROXY_CONNECTION, is_alias, remove_listed};

/// What is there among a response's fields, of what matters to a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseSurvey {
    date: bool,
    connection: bool,
    /// `Keep-Alive`, `Proxy-Connection`, `Upgrade`.
    hop: bool,
    transfer_encoding: bool,
    /// `Endpoint-Load-Metrics`, `Endpoint-Load-Metrics-Bin`.
    load: bool,
}

impl ResponseSurvey {
    /// Looks at every field once.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut survey = Self::default();
        for name in headers.keys() {
            let text = name.as_str().as_bytes();
            match text.len() {
                4 => survey.date |= text == b"date",
                7 => survey.hop |= text == b"upgrade",
                10 => {
                    survey.connection |= text == b"connection";
                    survey.hop |= text == b"keep-alive";
                }
                16 => survey.hop |= text == b"proxy-connection",
                17 => survey.transfer_encoding |= text == b"transfer-encoding",
                21 => survey.load |= text == b"endpoint-load-metrics",
                25 => survey.load |= text == b"endpoint-load-metrics-bin",
                _ => {}
            }
        }
        survey
    }

    /// Whether the endpoint says what load it has.
    pub fn load(&self) -> bool {
        self.load
    }
}

/// Makes a response's fields those of the next hop; a missing `Date` is added (RFC 9110 §6.6.1).
pub fn forward_response(headers: &mut HeaderMap, survey: ResponseSurvey, date: impl FnOnce() -> HeaderValue) {
    if survey.connection && remove_listed(headers).is_err() {
        headers.remove(CONNECTION);
    }
    if survey.hop {
        for name in [KEEP_ALIVE, PROXY_CONNECTION, UPGRADE] {
            headers.remove(name);
        }
    }
    if survey.transfer_encoding {
        headers.remove(TRANSFER_ENCODING);
        // Both: the coding was followed, the length would lie (RFC 9112 §6.3).
        headers.remove(CONTENT_LENGTH);
    }
    if !survey.date {
        headers.insert(DATE, date());
    }
}

/// Makes an interim response's fields those of the next hop. It has no body, whatever it says.
pub fn forward_interim(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) && remove_listed(headers).is_err() {
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        UPGRADE,
        TRANSFER_ENCODING,
        CONTENT_LENGTH,
    ] {
        headers.remove(name);
    }
}

/// Trailers that may be passed on: none that frame, route or are trusted (RFC 9110 §6.5.1).
pub fn forward_trailers(trailers: &mut HeaderMap) {
    let refused: Vec<_> = trailers
        .keys()
        .filter(|name| {
            let text = name.as_str();
            [
                CONTENT_LENGTH,
                TRANSFER_ENCODING,
                HOST,
                CONNECTION,
                TE,
                UPGRADE,
                FORWARDED,
                MAX_FORWARDS,
                EXPECT,
            ]
            .contains(name)
                || text.starts_with("x-forwarded-")
                || [http::header::AUTHORIZATION, COOKIE, http::header::SET_COOKIE].contains(name)
                || is_alias(text.as_bytes())
        })
        .cloned()
        .collect();
    for name in refused {
        trailers.remove(name);
    }
}
