//! Rooms know only those that ARCHITECTURE.md says they know.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A row of the table: a room, and the rooms that it knows.
struct Room {
    name: String,
    knows: BTreeSet<String>,
}

#[test]
fn every_room_has_one_row() {
    let mut drawn: Vec<String> = rooms().into_iter().map(|room| room.name).collect();
    drawn.sort();
    let source = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut there: Vec<String> = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    there.sort();
    assert_eq!(drawn, there);
}

#[test]
fn a_room_knows_only_rooms_above_it() {
    let mut above = BTreeSet::new();
    for room in rooms() {
        for known in &room.knows {
            assert!(
                above.contains(known),
                "{} knows {known}, which is not above it",
                room.name
            );
        }
        above.insert(room.name);
    }
}

#[test]
fn a_room_uses_only_rooms_that_it_knows() {
    let mut wrong = Vec::new();
    for room in rooms() {
        for file in files_of(&room.name) {
            let source = fs::read_to_string(&file).unwrap();
            for (number, line) in source.lines().enumerate() {
                for used in used_rooms(line) {
                    if used != room.name && !room.knows.contains(used) {
                        wrong.push(format!("{}:{}: uses {used}", file.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn uses_are_found() {
    for (line, expected) in [
        ("use crate::model::Backend;", &["model"][..]),
        (
            "    let now = crate::telemetry::record::unix_us(x);",
            &["telemetry"],
        ),
        (
            "/// See [`Delta`](crate::model::Delta) and crate::l7.",
            &["model", "l7"],
        ),
        ("use crate::{balance, model};", &["{"]),
        ("use super::model;", &[]),
    ] {
        assert_eq!(used_rooms(line).collect::<Vec<_>>(), expected, "{line}");
    }
}

/// The names after `crate::`; `{` for a list, which no row has, so that it is refused: one room per line can be read.
fn used_rooms(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest
            .find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .unwrap_or(rest.len());
        &rest[..end.max(1).min(rest.len())]
    })
}

fn rooms() -> Vec<Room> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows: Vec<Room> = text
        .lines()
        .skip_while(|line| *line != "| room | knows | what it is for |")
        .skip(2)
        .map_while(|line| line.strip_prefix('|'))
        .map(|row| {
            let mut cells = row.split('|').map(str::trim);
            let name = cells.next().unwrap().trim_matches('`').to_owned();
            let knows = cells
                .next()
                .unwrap()
                .split(", ")
                .filter(|known| *known != "nobody");
            Room {
                name,
                knows: knows.map(str::to_owned).collect(),
            }
        })
        .collect();
    assert!(rows.len() > 10, "the table of rooms was not found");
    rows
}

/// `src/room.rs` and all below `src/room`.
fn files_of(room: &str) -> Vec<PathBuf> {
    let mut found = vec![root().join(format!("src/{room}.rs"))];
    let mut open = vec![root().join("src").join(room)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
