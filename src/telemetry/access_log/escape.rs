//! Escaping of text that others chose, for both formats: what stands between two `"` in a line never ends
//! the string, the line, or the reader's patience.
//!
//! Escaped, as JSON does it: `"`, `\`, control characters (C0, DEL, C1: terminals act on them), line and
//! paragraph separators, and invisible characters that change the direction of text or hide it (Unicode TR36,
//! "bidirectional text spoofing"). Everything else is written as it is.

/// Writes at most `limit` bytes of the text (before escaping), and `…` if that was not all.
pub(super) fn escape(text: &str, limit: usize, out: &mut Vec<u8>) {
    let shown = if text.len() <= limit {
        text
    } else {
        &text[..text.floor_char_boundary(limit)]
    };
    if is_plain(shown.as_bytes()) {
        out.extend_from_slice(shown.as_bytes());
    } else {
        escape_slowly(shown, out);
    }
    if shown.len() < text.len() {
        out.extend_from_slice("…".as_bytes());
    }
}

/// Whether nothing is to be escaped. Nearly all text is so; without branches and an early end this is
/// compiled to vector instructions.
fn is_plain(text: &[u8]) -> bool {
    let odd = |byte: &u8| (*byte < 0x20) | (*byte >= 0x7f) | (*byte == b'"') | (*byte == b'\\');
    text.iter().fold(0, |found, byte| found | u8::from(odd(byte))) == 0
}

#[cold]
fn escape_slowly(text: &str, out: &mut Vec<u8>) {
    let mut utf8 = [0; 4];
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            character if is_hidden(character) => escape_hex(character as u32, out),
            character => out.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes()),
        }
    }
}

/// Whether a character must not be written as it is. All of these have four hexadecimal digits.
const fn is_hidden(character: char) -> bool {
    matches!(
        character,
        '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
    )
}

fn escape_hex(code: u32, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(DIGITS[(code >> shift & 0xf) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(text: &str, limit: usize) -> String {
        let mut out = Vec::new();
        escape(text, limit, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_dangerous_is_escaped() {
        for (text, expected) in [
            ("", ""),
            ("/a?b=c%20d", "/a?b=c%20d"),
            ("a\"b", "a\\\"b"),
            ("a\\b", "a\\\\b"),
            ("a\r\n127.0.0.1 - -", "a\\r\\n127.0.0.1 - -"),
            ("a\tb\0c", "a\\tb\\u0000c"),
            ("\x1b[31mred", "\\u001b[31mred"),
            ("\x7f", "\\u007f"),
            ("\u{9b}31m", "\\u009b31m"),
            ("\u{2028}x\u{2029}", "\\u2028x\\u2029"),
            ("\u{202e}gpj.exe", "\\u202egpj.exe"),
            ("\u{feff}", "\\ufeff"),
            ("grün 🌊", "grün 🌊"),
        ] {
            assert_eq!(escaped(text, 100), expected, "{text:?}");
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        for (text, limit, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "abc…"),
            ("aüb", 2, "a…"),
            ("ü", 1, "…"),
        ] {
            assert_eq!(escaped(text, limit), expected, "{text:?} {limit}");
        }
    }

    proptest! {
        #[test]
        fn json_reads_back_what_was_written(text in any::<String>()) {
            let line = format!("\"{}\"", escaped(&text, usize::MAX));
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
            prop_assert!(!line.chars().any(is_hidden));
        }
    }
}
