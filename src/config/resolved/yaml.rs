//! A small writer of block-style YAML. Only what is written here needs to be right; what it writes
//! is read again by the tests of the room.

/// What is written.
pub enum Yaml {
    /// As it stands.
    Scalar(String),
    /// A list.
    List(Vec<Yaml>),
    /// A mapping, in this order.
    Map(Vec<(String, Yaml)>),
}

/// A mapping in the making.
#[derive(Default)]
pub struct Fields(pub Vec<(String, Yaml)>);

impl Fields {
    /// Adds a field.
    pub fn push(&mut self, key: &str, value: Yaml) {
        self.0.push((key.to_owned(), value));
    }

    /// With a field.
    pub fn with(mut self, key: &str, value: Yaml) -> Self {
        self.push(key, value);
        self
    }

    /// With a field, if there is a value.
    pub fn maybe(self, key: &str, value: Option<Yaml>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// As a value.
    pub fn yaml(self) -> Yaml {
        Yaml::Map(self.0)
    }
}

impl Yaml {
    /// Writes it after `key:` or `-`, or as the whole file, `indent` spaces from the left.
    pub fn write(&self, out: &mut String, indent: usize) {
        match self {
            Self::Scalar(text) => out.push_str(text),
            Self::List(items) => {
                for item in items {
                    new_line(out, indent);
                    out.push_str("- ");
                    item.write_nested(out, indent + 2, true);
                }
            }
            Self::Map(fields) => {
                for (key, value) in fields {
                    new_line(out, indent);
                    out.push_str(&key_text(key));
                    out.push(':');
                    value.write_nested(out, indent + 2, false);
                }
            }
        }
        if indent == 0 {
            out.push('\n');
        }
    }

    fn write_nested(&self, out: &mut String, indent: usize, after_dash: bool) {
        let space = if after_dash { "" } else { " " };
        match self {
            Self::Scalar(_) => {
                out.push_str(space);
                self.write(out, indent);
            }
            Self::List(items) if items.iter().all(|item| matches!(item, Self::Scalar(_))) => {
                let items: Vec<&str> = items
                    .iter()
                    .map(|item| match item {
                        Self::Scalar(text) => text.as_str(),
                        Self::List(_) | Self::Map(_) => "",
                    })
                    .collect();
                out.push_str(&format!("{space}[{}]", items.join(", ")));
            }
            Self::Map(fields) if fields.is_empty() => {
                out.push_str(space);
                out.push_str("{}");
            }
            Self::List(_) | Self::Map(_) => self.write(out, indent),
        }
    }
}

/// A new line, unless there is nothing yet or `- ` waits for the first field.
fn new_line(out: &mut String, indent: usize) {
    if out.is_empty() || out.ends_with("- ") {
        return;
    }
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', indent));
}

fn key_text(key: &str) -> String {
    let plain = key.starts_with(|first: char| first.is_ascii_alphabetic())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        && !["true", "false", "null"].contains(&key.to_ascii_lowercase().as_str());
    if plain { key.to_owned() } else { quoted(key) }
}

/// A text in double quotes, with everything escaped that is not plainly visible.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        let odd = character.is_control()
            || (character.is_whitespace() && character != ' ')
            || matches!(character, '\u{feff}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{fff0}'..='\u{ffff}');
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            character if odd => out.push_str(&format!("\\U{:08X}", u32::from(character))),
            character => out.push(character),
        }
    }
    out.push('"');
    out
}
