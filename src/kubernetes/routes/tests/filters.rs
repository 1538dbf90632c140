//! Filters: each in the words of the model, and what becomes of those that cannot be done.

use http::{HeaderName, HeaderValue};

use super::{good_rule, only_reject, the_route};
use crate::model::{BackendTarget, Filter, Fraction, HeaderEdits, PathRewrite, Rule};

fn is_refused(rule: &Rule) -> bool {
    rule.filters.is_empty()
        && matches!(rule.backends[..], [ref only] if matches!(only.target, BackendTarget::Invalid(_)))
}

#[test]
fn filters() {
    let rule = good_rule(
        "filters:
- type: RequestHeaderModifier
  requestHeaderModifier: {set: [{name: A, value: '1'}], add: [{name: b, value: '2'}], remove: [C]}
- type: ResponseHeaderModifier
  responseHeaderModifier: {remove: [server]}
- type: URLRewrite
  urlRewrite: {hostname: In.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}}
- type: RequestMirror
  requestMirror: {backendRef: {name: web, port: 80}, percent: 5}
- type: RequestMirror
  requestMirror: {backendRef: {name: web, port: 80}, fraction: {numerator: 1, denominator: 3}}
- type: RequestMirror
  requestMirror: {backendRef: {name: web, port: 80}}",
    );
    let [
        Filter::RequestHeaders(request),
        Filter::ResponseHeaders(response),
        Filter::Rewrite(rewrite),
        mirrors @ ..,
    ] = &rule.filters[..]
    else {
        panic!("{rule:?}");
    };
    let pair = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    assert_eq!(
        *request,
        HeaderEdits {
            remove: vec![HeaderName::from_static("c")],
            set: vec![pair("a", "1")],
            add: vec![pair("b", "2")],
        }
    );
    assert_eq!(response.remove, [HeaderName::from_static("server")]);
    assert_eq!(rewrite.hostname, Some(HeaderValue::from_static("in.example")));
    assert_eq!(rewrite.path, Some(PathRewrite::Prefix("/new".into())));
    let fractions: Vec<_> = mirrors
        .iter()
        .map(|filter| match filter {
            Filter::Mirror(mirror) => (mirror.backend.as_str().to_owned(), mirror.fraction),
            other => panic!("{other:?}"),
        })
        .collect();
    let share = |numerator, denominator| Fraction {
        numerator,
        denominator,
    };
    let web = || "default/web:80".to_owned();
    assert_eq!(
        fractions,
        [
            (web(), share(5, 100)),
            (web(), share(1, 3)),
            (web(), Fraction::ALL)
        ]
    );
}

#[test]
fn redirects() {
    for (spec, check) in [
        ("{}", (None, None, None, None, 302)),
        (
            "{scheme: https, hostname: A.example, port: 8443, statusCode: 308, path: {type: ReplaceFullPath, replaceFullPath: /x}}",
            (
                Some("https"),
                Some("a.example"),
                Some(8443),
                Some(PathRewrite::Full("/x".into())),
                308,
            ),
        ),
        (
            "{statusCode: 303, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}",
            (None, None, None, Some(PathRewrite::Prefix("".into())), 303),
        ),
    ] {
        let rule = good_rule(&format!(
            "filters: [{{type: RequestRedirect, requestRedirect: {spec}}}]"
        ));
        let [Filter::Redirect(redirect)] = &rule.filters[..] else {
            panic!("{rule:?}");
        };
        let found = (
            redirect.scheme.as_ref().map(http::uri::Scheme::as_str),
            redirect.hostname.as_deref(),
            redirect.port,
            redirect.path.clone(),
            redirect.status.as_u16(),
        );
        assert_eq!(found, check, "{spec}");
    }
}

#[test]
fn a_filter_that_cannot_be_done_is_not_skipped() {
    for (filter, complaint) in [
        (
            "type: CORS",
            "[0].cors: UnsupportedValue: the filter's type needs this field",
        ),
        (
            "type: CORS, cors: {allowOrigins: ['https://a.example', 'a.example']}",
            "[0].cors.allowOrigins[1]: UnsupportedValue: \"a.example\" is neither '*' nor an origin",
        ),
        (
            "type: CORS, cors: {allowHeaders: ['a b']}",
            "[0].cors.allowHeaders[0]: UnsupportedValue: \"a b\" is no header's name",
        ),
        (
            "type: ExtensionRef, extensionRef: {name: x}",
            "[0].type: UnsupportedValue",
        ),
        (
            "type: URLRewrite",
            "[0].urlRewrite: UnsupportedValue: the filter's type needs this field",
        ),
        (
            "type: RequestRedirect, requestRedirect: {scheme: ftp}",
            "[0].requestRedirect.scheme: UnsupportedValue: \"ftp\"",
        ),
        (
            "type: RequestRedirect, requestRedirect: {statusCode: 200}",
            "[0].requestRedirect.statusCode: UnsupportedValue: 200",
        ),
        (
            "type: RequestRedirect, requestRedirect: {hostname: '*.a'}",
            "[0].requestRedirect.hostname: UnsupportedValue",
        ),
        (
            "type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: x}}",
            "[0].urlRewrite.path.replaceFullPath: UnsupportedValue",
        ),
        (
            "type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/a?b'}}",
            "[0].urlRewrite.path.replaceFullPath: UnsupportedValue",
        ),
        (
            "type: URLRewrite, urlRewrite: {path: {type: Other}}",
            "[0].urlRewrite.path.type: UnsupportedValue",
        ),
        (
            "type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: 'a b', value: x}]}",
            "[0].requestHeaderModifier.set[0]: UnsupportedValue",
        ),
        (
            "type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: \"x\\ny\"}]}",
            "[0].requestHeaderModifier.add[0].value: UnsupportedValue",
        ),
        (
            "type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: x}]}",
            "[0].requestHeaderModifier.set[0]: UnsupportedValue: the Host is changed with URLRewrite.hostname",
        ),
        (
            "type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Transfer-Encoding]}",
            "[0].responseHeaderModifier.remove[0]: UnsupportedValue: transfer-encoding belongs to the connection",
        ),
        (
            "type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}",
            ": IncompatibleFilters",
        ),
    ] {
        let (fixture, text) = only_reject(&format!("filters: [{{{filter}}}]"));
        assert!(
            text.starts_with(&format!("filters{complaint}")),
            "{text}\n{complaint}"
        );
        assert!(
            text.ends_with("; requests of this rule are answered with 500"),
            "{text}"
        );
        assert!(is_refused(&the_route(&fixture).rules[0]), "{filter}");
        assert!(
            fixture.world.backends.is_empty(),
            "a backend that gets nothing is not used"
        );
    }
    let (fixture, text) = only_reject(
        "matches: [{path: {type: Exact, value: /a}}]\nfilters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]",
    );
    assert!(
        text.contains("every match of the rule must be a PathPrefix"),
        "{text}"
    );
    assert!(is_refused(&the_route(&fixture).rules[0]));
}

#[test]
fn a_bad_mirror_is_left_out_alone() {
    for (mirror, complaint) in [
        (
            "{backendRef: {name: none, port: 80}}",
            "backendRef: BackendNotFound: there is no Service default/none",
        ),
        (
            "{backendRef: {name: web, port: 80}, percent: 101}",
            "percent: UnsupportedValue: 101 of 100",
        ),
        (
            "{backendRef: {name: web, port: 80}, percent: -1}",
            "percent: UnsupportedValue",
        ),
        (
            "{backendRef: {name: web, port: 80}, fraction: {numerator: 1, denominator: 0}}",
            "fraction: UnsupportedValue: 1 of 0",
        ),
    ] {
        let (fixture, text) = only_reject(&format!(
            "filters: [{{type: RequestMirror, requestMirror: {mirror}}}]"
        ));
        assert!(
            text.starts_with(&format!("filters[0].requestMirror.{complaint}")),
            "{text}"
        );
        let rule = &the_route(&fixture).rules[0];
        assert!(rule.filters.is_empty() && matches!(rule.backends[0].target, BackendTarget::Backend(_)));
    }
}
