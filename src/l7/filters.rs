//! Filters: edits of fields on the way of a request or response.

use http::{HeaderMap, HeaderValue};

use crate::model::{Filter, HeaderEdits};

/// Edits a request's fields as the filters say, in their order.
pub fn on_request<'f>(filters: impl Iterator<Item = &'f Filter>, headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::RequestHeaders(edits) = filter {
            edit(edits, headers);
        }
    }
}

/// Edits a response's fields as the filters say, in their order.
pub fn on_response<'f>(filters: impl Iterator<Item = &'f Filter>, headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::ResponseHeaders(edits) = filter {
            edit(edits, headers);
        }
    }
}

/// Added values join the ones that are there in one line (RFC 9110 §5.3), except where a line is a value of its own.
fn edit(edits: &HeaderEdits, headers: &mut HeaderMap) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, value) in &edits.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &edits.add {
        let joined = headers
            .get(name)
            .filter(|_| name != http::header::SET_COOKIE)
            .map(|old| {
                let bytes = [old.as_bytes(), b",", value.as_bytes()].concat();
                HeaderValue::from_bytes(&bytes).unwrap_or_else(|_| value.clone())
            });
        match joined {
            Some(joined) => headers.insert(name, joined).is_some(),
            None => headers.append(name, value.clone()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    #[test]
    fn removed_then_set_then_added() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let mut headers = HeaderMap::from_iter([
            (name("x-gone"), value("1")),
            (name("x-set"), value("old")),
            (name("x-more"), value("a")),
            (name("set-cookie"), value("a=1")),
        ]);
        let edits = HeaderEdits {
            remove: vec![name("x-gone")],
            set: vec![(name("x-set"), value("new"))],
            add: vec![
                (name("x-more"), value("b")),
                (name("x-new"), value("c")),
                (name("set-cookie"), value("b=2")),
            ],
        };
        on_request([Filter::RequestHeaders(edits.clone())].iter(), &mut headers);
        let all = |key: &str| {
            headers
                .get_all(key)
                .iter()
                .map(|value| value.to_str().unwrap())
                .collect::<Vec<_>>()
        };
        assert!(all("x-gone").is_empty());
        assert_eq!(
            (all("x-set"), all("x-more"), all("x-new")),
            (vec!["new"], vec!["a,b"], vec!["c"])
        );
        assert_eq!(all("set-cookie"), ["a=1", "b=2"]);
        let before = headers.clone();
        on_response([Filter::RequestHeaders(edits)].iter(), &mut headers);
        assert_eq!(headers, before);
    }
}
