//! The configuration file: one YAML (or JSON) text to a [`World`] and [`Settings`], or to all that
//! is wrong with it, each complaint with line, column, snippet and suggestion.
//!
//! Stages, each of which reports all it finds before the next begins:
//! 1. [`syntax`]: text to a tree of nodes that know their places (a syntax error ends it here);
//! 2. [`shape`]: unknown and repeated keys, wrong types, against the generated JSON [`schema`];
//! 3. [`raw`]: the tree's mirror in serde types;
//! 4. [`convert`]: units, names, references and limits: the model, valid because it exists.
//!
//! This room knows the model and nothing else. Nothing here runs on the path of a request.

mod convert;
pub mod diagnostic;
pub mod identity;
pub mod place;
mod raw;
mod resolved;
pub mod schema;
mod settings;
mod shape;
mod syntax;
pub mod units;
pub mod watch;

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::model::World;

pub use diagnostic::{Diagnostic, Diagnostics, Refusal, Severity};
pub use identity::IdentityFiles;
pub use resolved::resolved;
pub use settings::{
    AccessLogFormat, AccessLogSettings, AccessLogTarget, AdminSettings, DrainSettings, Settings,
};

/// Bytes of the largest file that is read: a hundred times a large one.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A file that is good.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What it asks for.
    pub world: World,
    /// How the process shall be.
    pub settings: Settings,
    /// Other files that it names, each with its content's fingerprint: when one changes, all is to be read again.
    pub files: BTreeMap<PathBuf, Option<u64>>,
    /// What is probably not meant; may be empty.
    pub warnings: Diagnostics,
    /// What of it makes no sense where no cluster is followed, which the command line says: to be refused there. Else empty.
    pub wants_cluster: Diagnostics,
}

/// Reads a file. Relative paths within it start at its directory.
///
/// # Errors
/// All that is wrong with it; [`Diagnostics::refusal`] tells bad from unreadable.
pub fn load(path: impl AsRef<Path>) -> Result<Loaded, Diagnostics> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let bytes = read(path).map_err(|error| unreadable(&name, &error))?;
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => return Err(not_text(&name, &bytes, error.valid_up_to())),
    };
    let absolute = std::path::absolute(path).map_err(|error| unreadable(&name, &error))?;
    parse_from(&name, text, absolute.parent())
}

/// Reads a text; `source_name` stands in messages. Relative paths within it stay as they are.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(source_name: &str, text: &str) -> Result<Loaded, Diagnostics> {
    parse_from(source_name, text, None)
}

fn parse_from(name: &str, text: &str, directory: Option<&Path>) -> Result<Loaded, Diagnostics> {
    let refuse = |found| Err(Diagnostics::new(name, text, found));
    let tree = match syntax::tree(text) {
        Ok(tree) => tree,
        Err(error) => return refuse(vec![error]),
    };
    if matches!(tree.value, syntax::Node::Null) {
        let empty = Diagnostic::error(place::Place::START, "the file is empty")
            .hint("three lines are enough: listen, routes, to (see config/minimal.yaml)");
        return refuse(vec![empty]);
    }
    let found = shape::check(text, &tree, schema::value());
    if !found.is_empty() {
        return refuse(found);
    }
    drop(tree);
    let raw = match syntax::raw(text) {
        Ok(raw) => raw,
        Err(error) => return refuse(vec![error]),
    };
    let convert::Converted {
        world,
        settings,
        files,
        found,
        wants_cluster,
    } = convert::convert(&raw, directory);
    if found.iter().any(|item| item.severity == Severity::Error) {
        return Err(Diagnostics::new(name, text, found).naming(files));
    }
    Ok(Loaded {
        world,
        settings,
        files,
        warnings: Diagnostics::new(name, text, found),
        wants_cluster: Diagnostics::new(name, text, wants_cluster),
    })
}

/// The whole file, if it is not larger than [`MAX_BYTES`].
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {}", units::show_size(MAX_BYTES)),
        ));
    }
    Ok(bytes)
}

/// Content in eight bytes; none of what cannot be read.
fn fingerprint_of(bytes: Option<&[u8]>) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes?);
    Some(hasher.finish())
}

fn unreadable(name: &str, error: &io::Error) -> Diagnostics {
    Diagnostics::unreadable(
        name,
        format!("the file cannot be read: {error}"),
        unreadable_hint(error),
    )
}

fn unreadable_hint(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::NotFound => Some("is the path right?".to_owned()),
        io::ErrorKind::PermissionDenied => Some("may this user read it?".to_owned()),
        io::ErrorKind::IsADirectory => Some("name a file in it".to_owned()),
        _ => None,
    }
}

fn not_text(name: &str, bytes: &[u8], valid_up_to: usize) -> Diagnostics {
    let text = String::from_utf8_lossy(bytes);
    let before = String::from_utf8_lossy(&bytes[..valid_up_to]);
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let place = place::Place {
        line: small(before.matches('\n').count() + 1),
        column: small(before.rsplit('\n').next().unwrap_or("").chars().count() + 1),
        length: 1,
    };
    let found = Diagnostic::error(place, "this is not UTF-8 text");
    Diagnostics::new(name, &text, vec![found])
}
