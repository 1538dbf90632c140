//! What is wrong with a file, for people and for programs: place, message, snippet, suggestion.
//!
//! A pass collects all it can find and hands everything over at once. What is shown comes from a
//! file that may be hostile: control characters never reach the terminal, long lines are cut
//! around the caret, and at most [`MAX_KEPT`] complaints are shown.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::place::Place;

/// Complaints shown of one file.
pub const MAX_KEPT: usize = 100;

/// Characters of a line shown in a snippet.
const SNIPPET_WIDTH: usize = 100;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is used, but probably not as meant.
    Warning,
}

impl Severity {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where; none when the file as a whole is meant.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to try.
    pub hint: Option<String>,
    /// Another place that has to do with it, and how.
    pub related: Option<(Place, &'static str)>,
}

impl Diagnostic {
    /// An error at a place.
    pub(super) fn error(place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: Some(place),
            message: message.into(),
            hint: None,
            related: None,
        }
    }

    /// A warning at a place.
    pub(super) fn warning(place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, message)
        }
    }

    /// With what to try.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a hint if there is one.
    pub(super) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// With another place.
    pub(super) fn related(mut self, place: Place, what: &'static str) -> Self {
        self.related = Some((place, what));
        self
    }
}

/// Complaints in the making: bounded, so that a file of nothing but mistakes costs no more.
#[derive(Default)]
pub(super) struct Findings {
    items: Vec<Diagnostic>,
    errors: bool,
}

impl Findings {
    /// Adds one, unless there are too many to show; the first error is always kept.
    pub(super) fn say(&mut self, diagnostic: Diagnostic) {
        let error = diagnostic.severity == Severity::Error;
        if !self.is_full() || (error && !self.errors) {
            self.items.push(diagnostic);
            self.errors |= error;
        }
    }

    /// Whether there are so many that no more are kept. Then no suggestion needs to be looked for.
    pub(super) fn is_full(&self) -> bool {
        // Some more than are shown, because they are not found in the order of their places.
        self.items.len() >= 4 * MAX_KEPT
    }

    /// Whether there is an error among them.
    pub(super) fn has_errors(&self) -> bool {
        self.errors
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// All of them.
    pub(super) fn into_items(self) -> Vec<Diagnostic> {
        self.items
    }
}

/// Why a file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It was read and is wrong.
    Invalid,
    /// It could not be read.
    Unreadable,
}

/// All complaints about one file, in the order of their places; also the error of reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    file: String,
    text: Arc<str>,
    refusal: Refusal,
    items: Vec<Diagnostic>,
    more: bool,
    files: BTreeMap<PathBuf, Option<u64>>,
}

impl Diagnostics {
    /// What was found in a text.
    pub(super) fn new(file: &str, text: &str, mut items: Vec<Diagnostic>) -> Self {
        // When some are left out, it is warnings first, and then what stands last in the file.
        items.sort_by_key(|item| (item.severity, item.place));
        let more = items.len() > MAX_KEPT;
        items.truncate(MAX_KEPT);
        items.sort_by_key(|item| (item.place, item.severity));
        Self {
            file: file.to_owned(),
            text: Arc::from(if items.is_empty() { "" } else { text }),
            refusal: Refusal::Invalid,
            items,
            more,
            files: BTreeMap::new(),
        }
    }

    /// With the other files that were read, each with its content's fingerprint.
    pub(super) fn naming(mut self, files: BTreeMap<PathBuf, Option<u64>>) -> Self {
        self.files = files;
        self
    }

    /// The file could not be read.
    pub(super) fn unreadable(file: &str, message: String, hint: Option<String>) -> Self {
        Self {
            file: file.to_owned(),
            text: Arc::from(""),
            refusal: Refusal::Unreadable,
            items: vec![Diagnostic {
                severity: Severity::Error,
                place: None,
                message,
                hint,
                related: None,
            }],
            more: false,
            files: BTreeMap::new(),
        }
    }

    /// Other files that a refused file names, each with its content's fingerprint: to mend one of them may mend all.
    pub fn files(&self) -> &BTreeMap<PathBuf, Option<u64>> {
        &self.files
    }

    /// The file's name, as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether the file was wrong or could not be read.
    pub fn refusal(&self) -> Refusal {
        self.refusal
    }

    /// The complaints.
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// For people: each complaint with its line and a caret, an empty line between two.
    pub fn human(&self) -> String {
        let mut out: Vec<String> = self.items.iter().map(|item| self.one(item)).collect();
        if self.more {
            out.push(format!("... and more; the first {MAX_KEPT} are shown\n"));
        }
        out.join("\n")
    }

    /// For programs: an array of `{severity, file, line, column, end_column, message, hint, related}`.
    pub fn json(&self) -> Value {
        self.items.iter().map(|item| self.one_json(item)).collect()
    }

    fn one(&self, item: &Diagnostic) -> String {
        let word = item.severity.word();
        let message = printable(&item.message);
        let hint = item.hint.as_deref().map(printable);
        let Some(place) = item.place else {
            let hint = hint.map(|hint| format!("  = {hint}\n")).unwrap_or_default();
            return format!("{}: {word}: {message}\n{hint}", self.file);
        };
        let mut out = format!(
            "{}:{}:{}: {word}: {message}\n",
            self.file, place.line, place.column
        );
        let related = item.related.filter(|(place, _)| *place != Place::START);
        let widest = related.map_or(place.line, |(other, _)| other.line.max(place.line));
        let margin = widest.to_string().len();
        out.push_str(&self.snippet(place, margin, hint.as_deref()));
        if let Some((place, what)) = related {
            out.push_str(&self.snippet(place, margin, Some(what)));
        }
        out
    }

    /// The line, and below it a caret under the place and what is said about it.
    fn snippet(&self, place: Place, margin: usize, label: Option<&str>) -> String {
        let line = line_of(&self.text, place.line);
        let start = (place.column as usize).saturating_sub(1);
        let from = start.saturating_sub(SNIPPET_WIDTH / 2);
        let shown: String = printable(&line.chars().skip(from).take(SNIPPET_WIDTH).collect::<String>());
        let rest = line.chars().count().saturating_sub(start);
        let carets = (place.length as usize).min(rest).clamp(1, SNIPPET_WIDTH / 2);
        let pad = start - from;
        let label = label.map(|label| format!(" {label}")).unwrap_or_default();
        format!(
            "{:margin$} |\n{:>margin$} | {}\n{:margin$} | {:pad$}{}{label}\n",
            "",
            place.line,
            shown.trim_end(),
            "",
            "",
            "^".repeat(carets)
        )
    }

    fn one_json(&self, item: &Diagnostic) -> Value {
        let place = |place: Place| json!({ "line": place.line, "column": place.column, "end_column": place.column.saturating_add(place.length) });
        let mut out = json!({
            "severity": item.severity.word(),
            "file": self.file,
            "message": item.message,
        });
        if let (Some(at), Value::Object(fields)) = (item.place, &mut out)
            && let Value::Object(at) = place(at)
        {
            fields.extend(at);
        }
        if let Some(hint) = &item.hint {
            out["hint"] = json!(hint);
        }
        if let Some((at, what)) = item.related {
            out["related"] = place(at);
            out["related"]["message"] = json!(what);
        }
        out
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.human().trim_end())
    }
}

impl std::error::Error for Diagnostics {}

/// A line of a text, counted from 1, without its end.
pub(super) fn line_of(text: &str, line: u32) -> &str {
    let line = text.lines().nth((line as usize).saturating_sub(1)).unwrap_or("");
    line.strip_prefix('\u{feff}').unwrap_or(line)
}

/// What stands in a text at a place, up to the end of the line.
pub(super) fn text_at(text: &str, place: Place) -> String {
    line_of(text, place.line)
        .chars()
        .skip((place.column as usize).saturating_sub(1))
        .take(place.length as usize)
        .collect()
}

/// The candidate that a mistyped word most likely means: within a third of its length in
/// typing slips (Damerau-Levenshtein), at least one.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Bounds on the work: words that a person types, and as many candidates as take a millisecond.
    const LONGEST: usize = 100;
    const MOST: usize = 2_000;
    if word.len() > LONGEST {
        return None;
    }
    let folded = word.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .take(MOST)
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| {
            let distance =
                strsim::damerau_levenshtein(&folded, &candidate.to_ascii_lowercase().replace('-', "_"));
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean "x"?`, or the few words there are.
pub(super) fn suggestion<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<String> {
    const FEW: usize = 16;
    if let Some(nearest) = nearest(word, candidates.clone()) {
        return Some(format!("did you mean {nearest:?}?"));
    }
    let all: Vec<&str> = candidates.into_iter().take(FEW + 1).collect();
    (1..=FEW)
        .contains(&all.len())
        .then(|| format!("known here: {}", all.join(", ")))
}

/// Control characters, and those that turn the direction of text, shown as `·`.
fn printable(text: &str) -> String {
    let odd = |character: char| {
        character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|character| match character {
            '\t' => ' ',
            character if odd(character) => '·',
            character => character,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u32, column: u32, length: u32) -> Place {
        Place { line, column, length }
    }

    #[test]
    fn a_complaint_points_at_its_place() {
        let text = "listen: \":80\"\nroutes:\n  - to: wbe\n";
        let found = Diagnostics::new(
            "a.yaml",
            text,
            vec![
                Diagnostic::error(place(3, 9, 3), "no backend is called \"wbe\"")
                    .hint("did you mean \"web\"?")
                    .related(place(1, 1, 6), "first here"),
            ],
        );
        assert_eq!(
            found.human(),
            "a.yaml:3:9: error: no backend is called \"wbe\"\n  |\n3 |   - to: wbe\n  |         ^^^ did you mean \"web\"?\n  |\n1 | listen: \":80\"\n  | ^^^^^^ first here\n"
        );
        assert_eq!(
            found.json(),
            json!([{
                "severity": "error", "file": "a.yaml", "line": 3, "column": 9, "end_column": 12,
                "message": "no backend is called \"wbe\"", "hint": "did you mean \"web\"?",
                "related": {"line": 1, "column": 1, "end_column": 7, "message": "first here"}
            }])
        );
    }

    #[test]
    fn a_hostile_file_cannot_write_to_the_terminal() {
        let text = format!("{}\u{1b}[31mred\u{202e}", "x".repeat(300));
        let found = Diagnostics::new("a", &text, vec![Diagnostic::error(place(1, 301, 9), "\u{1b}[0m")]);
        let shown = found.human();
        assert!(
            !shown.contains('\u{1b}') && !shown.contains('\u{202e}'),
            "{shown:?}"
        );
        assert!(
            shown.lines().all(|line| line.chars().count() < 120),
            "long lines are cut: {shown}"
        );
    }

    #[test]
    fn complaints_are_sorted_and_bounded() {
        let many: Vec<Diagnostic> = (1..=150)
            .rev()
            .map(|line| Diagnostic::error(place(line, 1, 1), "x"))
            .collect();
        let found = Diagnostics::new("a", "", many);
        assert_eq!(found.items().len(), MAX_KEPT);
        assert_eq!(found.items()[0].place.unwrap().line, 1);
        assert!(found.human().ends_with("... and more; the first 100 are shown\n"));
    }

    #[test]
    fn suggestions_are_near_or_few() {
        let keys = ["prefix", "exact", "regex"];
        for (word, hint) in [
            ("prefx", "did you mean \"prefix\"?"),
            ("Exact", "did you mean \"exact\"?"),
            ("zzzzzz", "known here: prefix, exact, regex"),
        ] {
            assert_eq!(suggestion(word, keys).as_deref(), Some(hint), "{word}");
        }
        assert_eq!(nearest(&"x".repeat(1000), keys), None);
    }
}
