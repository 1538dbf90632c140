//! Where in an object of the API server's a reader stopped: `spec.ports[0].port`.
//!
//! The reader tells a line and a column, which mean nothing to whoever wrote the object in YAML, and are others each time that
//! anything before them changes.

use serde_json::Error;

/// How deep a path is told; what is below counts for the whole.
const MAX_DEPTH: usize = 16;

/// The field that an error is about, and what is wrong with it.
pub fn of_error(text: &str, error: &Error) -> (String, String) {
    let said = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = said.strip_suffix(&place).unwrap_or(&said);
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let read = lines.map(str::len).sum::<usize>() + error.column();
    let mut read = text.as_bytes().get(..read).unwrap_or(text.as_bytes());
    if !reason.starts_with("missing field") {
        // An error of the last field or item is told when the end of the whole was read, too; one of a whole behind its
        // beginning.
        read = without_last(read, b"}]");
        read = without_last(read, b"{[");
    }
    let mut field = String::new();
    for step in path(read).iter().take(MAX_DEPTH) {
        match step {
            Step::Field(name) if field.is_empty() => field.push_str(name),
            Step::Field(name) => {
                field.push('.');
                field.push_str(name);
            }
            Step::Item(at) => field.push_str(&format!("[{at}]")),
        }
    }
    (field, reason.to_owned())
}

/// A text without a last byte of these, and without what is blank behind it.
fn without_last<'text>(text: &'text [u8], bytes: &[u8]) -> &'text [u8] {
    match text.trim_ascii_end().split_last() {
        Some((last, rest)) if bytes.contains(last) => rest,
        _ => text,
    }
}

/// A step into an object.
#[derive(Debug)]
enum Step {
    Field(String),
    Item(usize),
}

/// The way to where a text ends that is the beginning of good JSON.
fn path(text: &[u8]) -> Vec<Step> {
    let mut path: Vec<Option<Step>> = Vec::new();
    let mut string = None;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                let end = end_of_string(text, at);
                string = text.get(at + 1..end);
                at = end;
            }
            b':' => {
                if let (Some(step @ (None | Some(Step::Field(_)))), Some(name)) = (path.last_mut(), string) {
                    *step = Some(Step::Field(String::from_utf8_lossy(name).into_owned()));
                }
            }
            b'{' => path.push(None),
            b'[' => path.push(Some(Step::Item(0))),
            b'}' | b']' => drop(path.pop()),
            b',' => {
                if let Some(Some(Step::Item(at))) = path.last_mut() {
                    *at += 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    path.into_iter().flatten().collect()
}

/// The place of the quote that ends a string, or the end of the text.
fn end_of_string(text: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    loop {
        match text.get(at) {
            None | Some(b'"') => return at,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::objects::{Kind, Object};

    #[test]
    fn an_error_names_its_field() {
        for (kind, text, field, reason) in [
            (
                Kind::Service,
                r#"{"metadata":{"name":"a","annotations":{"x":"]}\"{"}},"spec":{"ports":[{"port":80},{"name":"b","port":70000}]}}"#,
                "spec.ports[1].port",
                "70000 is no port",
            ),
            (
                Kind::Service,
                "{\"metadata\":{\"name\":\"a\"},\n \"spec\":{\"ports\":\n  [{\"port\":\"x\"}]}}",
                "spec.ports[0].port",
                "\"x\" is no port",
            ),
            (
                Kind::Service,
                r#"{"metadata":{"name":"a"},"spec":{"ports":7}}"#,
                "spec.ports",
                "invalid type: integer `7`",
            ),
            (
                Kind::Service,
                r#"{"metadata":{"name":"a"},"spec":{"ports":[{"name":"b"}]}}"#,
                "spec.ports[0]",
                "missing field `port`",
            ),
            (
                Kind::Service,
                r#"{"metadata":{"name":"a"},"spec":{"ports":[{"port":0},{"port":80}],"type":"x"}}"#,
                "spec.ports[0].port",
                "0 is no port",
            ),
            (
                Kind::HttpRoute,
                r#"{"metadata":{"name":"a"},"spec":{"hostnames":[] ,"parentRefs":[{"name":"g"},{"name":7 }]}}"#,
                "spec.parentRefs[1].name",
                "invalid type: integer `7`",
            ),
            (
                Kind::HttpRoute,
                r#"{"metadata":{"name":"a"},"spec":{"rules":[{"matches":[]},{"matches":[{"path":{"value":[1]}}]}]}}"#,
                "spec.rules[1].matches[0].path.value",
                "invalid type: sequence",
            ),
        ] {
            let mut input = serde_json::Deserializer::from_str(text);
            let error = Object::decode(kind, &mut input).unwrap_err();
            let (found, why) = of_error(text, &error);
            assert_eq!(found, field, "{error}");
            assert!(why.starts_with(reason) && !why.contains("column"), "{why}");
        }
    }

    #[test]
    fn no_text_is_too_odd() {
        let text = r#"{"a":[{"b":"\"","c":[1,{"d":null}]},"#;
        for end in 0..=text.len() {
            path(&text.as_bytes()[..end]);
        }
        for odd in ["]]]}}}", ",,,:::", "\"\\", "[[[[", "{:\"", "\u{0}"] {
            path(odd.as_bytes());
        }
    }
}
