//! As much of Markdown as the project's own pages use.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// A page.
pub struct Page {
    pub path: PathBuf,
    pub text: String,
}

/// All pages of the project.
pub fn pages() -> Vec<Page> {
    let mut pages = Vec::new();
    let mut open = vec![root().to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if name.ends_with(".md") {
                let text = fs::read_to_string(&path).unwrap();
                pages.push(Page { path, text });
            }
        }
    }
    assert!(pages.len() >= 7, "only {} pages were found", pages.len());
    pages
}

/// The project's directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Page {
    pub fn read(name: &str) -> Self {
        let path = root().join(name);
        let text = fs::read_to_string(&path).unwrap();
        Self { path, text }
    }

    pub fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }

    /// Targets of links within the project, as written.
    pub fn links(&self) -> Vec<String> {
        let definitions = self.prose().filter_map(|line| {
            let (label, target) = line.split_once("]: ")?;
            label.starts_with('[').then(|| target.trim().to_owned())
        });
        let inline = self
            .prose()
            .flat_map(|line| line.split("](").skip(1))
            .filter_map(|rest| rest.split_once(')'))
            .map(|(target, _)| target.to_owned());
        inline
            .chain(definitions)
            .filter(|target| !target.contains("://"))
            .collect()
    }

    /// A path as it is meant in a link of this page.
    pub fn beside(&self, path: &str) -> PathBuf {
        let mut target = self.path.parent().unwrap().to_owned();
        for part in Path::new(path).components() {
            match part {
                Component::ParentDir => {
                    target.pop();
                }
                part => target.push(part),
            }
        }
        target
    }

    /// What can stand after `#` in a link to this page.
    pub fn anchors(&self) -> impl Iterator<Item = String> {
        self.prose()
            .filter(|line| line.starts_with('#'))
            .map(|line| line.trim_start_matches('#').trim())
            .map(|title| {
                title
                    .to_lowercase()
                    .chars()
                    .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
                    .map(|letter| if letter == ' ' { '-' } else { letter })
                    .collect()
            })
    }

    /// Code within the text.
    pub fn code(&self) -> Vec<String> {
        self.prose().flat_map(code_of).collect()
    }

    /// Lines of shell, without comments, as words.
    pub fn commands(&self) -> Vec<Vec<String>> {
        let mut within = false;
        let mut commands = Vec::new();
        for line in self.text.lines() {
            match line {
                "```sh" => within = true,
                "```" => within = false,
                line if within => {
                    let words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
                    commands.push(words.map(str::to_owned).collect());
                }
                _ => {}
            }
        }
        commands
    }

    /// The cells of the first table behind a heading, without its head.
    pub fn table(&self, heading: &str) -> Vec<Vec<String>> {
        let rows: Vec<_> = self
            .prose()
            .skip_while(|line| !line.starts_with('#') || line.trim_start_matches('#').trim() != heading)
            .skip_while(|line| !line.starts_with("|--"))
            .skip(1)
            .map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
            .map(|row| row.split(" | ").map(|cell| cell.trim().to_owned()).collect())
            .collect();
        assert!(!rows.is_empty(), "{}: no table behind {heading:?}", self.name());
        rows
    }

    /// Lines outside of blocks of code.
    fn prose(&self) -> impl Iterator<Item = &str> {
        let mut within = false;
        self.text.lines().filter(move |line| {
            let fence = line.starts_with("```");
            within ^= fence;
            !within && !fence
        })
    }
}

/// What stands between backticks in a line.
pub fn code_of(line: &str) -> Vec<String> {
    line.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
