//! What every file of the product has and what may stand in none, read off the source itself.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

struct File {
    /// Under `src`, with `/`.
    path: String,
    room: String,
    /// Without comments, strings and what is compiled for tests only.
    code: String,
    text: String,
}

fn files() -> Vec<File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&src, &mut paths);
    paths.sort();
    assert!(paths.len() > 50, "the source was not found");
    let read: Vec<(String, String)> = paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            (path, text)
        })
        .collect();
    let for_tests: Vec<String> = read
        .iter()
        .flat_map(|(path, text)| test_modules(path, text))
        .collect();
    let file = |(path, text): (String, String)| {
        let room = path.split(['/', '.']).next().unwrap().to_owned();
        let stem = path.strip_suffix(".rs").unwrap();
        let test = for_tests
            .iter()
            .any(|module| stem == module || stem.starts_with(&format!("{module}/")));
        let code = if test { String::new() } else { code_of(&text) };
        File {
            path,
            room,
            code,
            text,
        }
    };
    read.into_iter().map(file).collect()
}

fn collect(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The code that is compiled into the product, without comments and texts. Tests stand at the end of a file, behind
/// `#[cfg(test)]`.
fn code_of(text: &str) -> String {
    let code = bare(text);
    match code.find("#[cfg(test)]\nmod tests {") {
        Some(tests) => code[..tests].to_owned(),
        None => code,
    }
}

/// Takes comments and the insides of strings and characters out; lines stay where they are.
fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, shown) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), "")
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), "")
        } else if let Some(length) = raw_string(rest) {
            (length, "\"\"")
        } else if first == '"' {
            (quoted(rest, '"'), "\"\"")
        } else if let Some(length) = character(rest) {
            (length, "''")
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.push_str(shown);
        out.extend(rest[..length].matches('\n'));
        rest = &rest[length..];
    }
    out
}

/// The length of `r"…"` or `r#"…"#` at the start, if there is one.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text
        .strip_prefix('r')?
        .chars()
        .take_while(|letter| *letter == '#')
        .count();
    let inside = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(2 + hashes + inside.find(&end)? + end.len())
}

/// The length of a text from its opening to its closing quote.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            letter if letter == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal at the start; none for a lifetime.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let mut letters = inside.chars();
    let first = letters.next()?;
    (first == '\\' || letters.next() == Some('\'')).then(|| quoted(text, '\''))
}

/// The files of modules that are compiled for tests only.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let bare = bare(text);
    let home = path.strip_suffix(".rs").unwrap_or(path);
    let home = if ["lib", "main"].contains(&home) { "" } else { home };
    bare.match_indices("#[cfg(test)]\nmod ")
        .filter_map(|(at, found)| bare[at + found.len()..].split_once([';', ' ']))
        .map(|(name, _)| format!("{home}/{name}").trim_start_matches('/').to_owned())
        .collect()
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<_> = files()
        .into_iter()
        .filter(|file| !file.text.starts_with("//! ") || file.text.lines().next().unwrap().len() < 20)
        .map(|file| file.path)
        .collect();
    assert!(
        silent.is_empty(),
        "no //! with a sentence at the top of {silent:?}"
    );
}

#[test]
fn the_atomic_pointer_is_named_in_one_file() {
    let naming: Vec<_> = files()
        .into_iter()
        .filter(|file| file.code.contains("arc_swap") || file.code.contains("ArcSwap"))
        .map(|file| file.path)
        .collect();
    assert_eq!(naming, ["snapshot/publish.rs"]);
}

/// Where a word that is forbidden elsewhere may stand, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

#[test]
fn nothing_panics_or_prints_on_the_way() {
    let mut wrong = Vec::new();
    for file in files() {
        // The commands talk to people.
        let talks = ["cli", "demo", "main"].contains(&file.room.as_str());
        for (number, line) in file.code.lines().enumerate() {
            for word in [
                ".unwrap()",
                ".expect(",
                "panic!(",
                "todo!(",
                "unimplemented!(",
                "unreachable!(",
                "dbg!(",
                "println!(",
                "eprintln!(",
                "print!(",
            ] {
                let printing = word.contains("print");
                let excepted = EXCEPTIONS
                    .iter()
                    .any(|(path, excepted, _)| *path == file.path && *excepted == word);
                if line.contains(word) && !(excepted || printing && talks) {
                    wrong.push(format!("src/{}:{}: {word}", file.path, number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (path, word, _) in EXCEPTIONS {
        let there = files()
            .iter()
            .any(|file| file.path == *path && file.code.contains(word));
        assert!(there, "the exception for {word} in {path} is not needed any more");
    }
}

#[test]
fn this_test_sees_what_it_looks_for() {
    let code = code_of(
        "use crate::{model::{A, B}, l7};\nfn a() { x.unwrap() } // .expect(\nlet b = \"panic!(\\\"\"; // c\n\
         let c = crate::app::start();\n#[cfg(test)]\nmod tests {\n    use crate::kubernetes;\n}\n",
    );
    assert!(code.contains(".unwrap()") && !code.contains(".expect(") && !code.contains("panic!("));
    assert_eq!(
        bare("a('\"', 'b', '\\'', \"http://\\\"x\", r#\"\"y\"#) /* z */ fn c<'a>(d: &'a str) {} // e\nf"),
        "a('', '', '', \"\", \"\")  fn c<'a>(d: &'a str) {} \nf"
    );
    assert_eq!(
        test_modules("a/b.rs", "#[cfg(test)]\nmod c;\n#[cfg(test)]\nmod tests {"),
        ["a/b/c", "a/b/tests"]
    );
}

#[test]
fn unsafe_stands_in_one_file() {
    let files = files();
    let found: Vec<_> = files
        .iter()
        .filter(|file| file.text.contains("unsafe {") || file.text.contains("allow(unsafe_code)"))
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(found, ["runtime/allocator.rs"]);
}
