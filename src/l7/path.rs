//! The one form of a path that is matched and forwarded.
//!
//! # Why
//! A proxy that matches `/admin` on one spelling of a path and forwards another lets `/a/../admin` or `/%61dmin`
//! through a rule that was meant to catch it. So there is one spelling for both: dot segments removed (RFC 3986
//! §5.2.4), escapes of unreserved letters decoded and other escapes in upper case (§6.2.2). What could be read in two
//! ways by a server behind (`\`, `%00`, broken escapes, `..` above the root) is refused. `//`, `;` and `%2F` stay as
//! they are: they mean different things to different servers, and the same thing before and behind us.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRefusal {
    /// It does not start with `/`.
    NotAbsolute,
    /// A backslash, a control or a NUL, plain or escaped, or an escape that is none.
    Ambiguous,
    /// `..` above the root.
    AboveRoot,
}

/// The path's one form; borrowed when it has it already, as nearly all do.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathRefusal> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathRefusal::NotAbsolute);
    }
    let mut escaped = false;
    let mut dotted = false;
    let mut previous = 0;
    for byte in bytes {
        match byte {
            b'%' => escaped = true,
            b'.' => dotted |= previous == b'/',
            b'\\' | 0..=0x20 | 0x7F => return Err(PathRefusal::Ambiguous),
            _ => {}
        }
        previous = *byte;
    }
    if !escaped && !dotted {
        return Ok(Cow::Borrowed(path));
    }
    let text = if escaped { unescape(path)? } else { path.to_owned() };
    // Unescaping may have made dots.
    Ok(Cow::Owned(if dotted || text.contains("/.") {
        remove_dots(&text)?
    } else {
        text
    }))
}

fn unescape(path: &str) -> Result<String, PathRefusal> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = rest
            .as_bytes()
            .get(at + 1..at + 3)
            .ok_or(PathRefusal::Ambiguous)?;
        let digit = |byte: u8| (byte as char).to_digit(16).ok_or(PathRefusal::Ambiguous);
        let value = (digit(code[0])? * 16 + digit(code[1])?) as u8;
        match value {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(value as char),
            0..=0x1F | 0x7F | b'\\' => return Err(PathRefusal::Ambiguous),
            _ => {
                out.push('%');
                out.extend(code.iter().map(|byte| byte.to_ascii_uppercase() as char));
            }
        }
        // Both digits are ASCII, so this is a boundary.
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(out)
}

fn remove_dots(path: &str) -> Result<String, PathRefusal> {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop().ok_or(PathRefusal::AboveRoot)?;
            }
            _ => kept.push(segment),
        }
        if last && matches!(segment, "." | "..") {
            kept.push("");
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_form_for_all_spellings() {
        for (path, form) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a.b/c..d", "/a.b/c..d"),
            ("/a//b", "/a//b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/.", "/"),
            ("/%61dmin", "/admin"),
            ("/a/%2e%2E/b", "/b"),
            ("/a%2fb%3b", "/a%2Fb%3B"),
            ("/.well-known/x", "/.well-known/x"),
            ("/caf%c3%a9", "/caf%C3%A9"),
        ] {
            assert_eq!(normalise(path).unwrap(), form, "{path}");
        }
        assert!(matches!(normalise("/a/b-c"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn refused() {
        for (path, refusal) in [
            ("", PathRefusal::NotAbsolute),
            ("*", PathRefusal::NotAbsolute),
            ("a/b", PathRefusal::NotAbsolute),
            ("/..", PathRefusal::AboveRoot),
            ("/a/../../b", PathRefusal::AboveRoot),
            ("/%2e%2e/b", PathRefusal::AboveRoot),
            ("/a\\b", PathRefusal::Ambiguous),
            ("/a%5cb", PathRefusal::Ambiguous),
            ("/a%00", PathRefusal::Ambiguous),
            ("/a%0d%0a", PathRefusal::Ambiguous),
            ("/a%", PathRefusal::Ambiguous),
            ("/a%4", PathRefusal::Ambiguous),
            ("/a%zz", PathRefusal::Ambiguous),
            ("/a%é", PathRefusal::Ambiguous),
        ] {
            assert_eq!(normalise(path), Err(refusal), "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_form_is_its_own_form(path in "/[a-c./%2eE5cC\\\\-]{0,24}") {
            if let Ok(form) = normalise(&path) {
                let again = normalise(&form).map(Cow::into_owned);
                prop_assert_eq!(again, Ok(form.clone().into_owned()));
                prop_assert!(!form.split('/').any(|segment| segment == "." || segment == ".."));
            }
        }

        #[test]
        fn no_text_panics(path in "\\PC{0,40}") {
            let _ = normalise(&path);
        }
    }
}
