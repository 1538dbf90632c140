//! The screen: paints lines on a terminal with plain ANSI, or prints lines into a pipe.
//!
//! Each frame begins at the upper left corner and overwrites the one before. There is no alternate screen: what was there
//! before has scrolled up, and the last frame stays.

use std::io::{self, IsTerminal, Write};

use super::view::{Event, Frame, Line, Looks, Paint, event_text, lines, one_line};

/// Where the demo shows itself. The cursor of a terminal comes back when this is dropped.
pub struct Screen {
    terminal: Option<Terminal>,
    /// What was last explained on a pipe.
    explained: &'static str,
}

struct Terminal {
    colour: bool,
    unicode: bool,
    /// What the last frame was painted for.
    painted: Option<Looks>,
}

/// The size of a terminal that does not say.
const USUAL: (usize, usize) = (80, 24);

impl Screen {
    /// Standard output, as it is.
    pub fn open() -> Self {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let is_terminal = io::stdout().is_terminal() && variable("TERM") != "dumb";
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .map(variable)
            .into_iter()
            .find(|value| !value.is_empty());
        Self {
            terminal: is_terminal.then(|| Terminal {
                colour: variable("NO_COLOR").is_empty(),
                unicode: locale.is_none_or(|locale| is_utf8(&locale)),
                painted: None,
            }),
            explained: "",
        }
    }

    /// Whether frames are painted; otherwise one line per second is enough.
    pub fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Shows a frame; on a pipe one line of it, after what is new.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn show(&mut self, frame: &Frame, new: &[Event]) -> io::Result<()> {
        let text = match &mut self.terminal {
            Some(terminal) => terminal.paint(frame),
            None => {
                let explains = frame.says != std::mem::replace(&mut self.explained, frame.says);
                let says = explains.then(|| format!("\n# {}", frame.says));
                let lines = says.into_iter().chain(new.iter().map(event_text));
                lines.chain([one_line(frame)]).map(|line| line + "\n").collect()
            }
        };
        write(&text)
    }

    /// Shows a text below what is there.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        write(text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self
            .terminal
            .as_ref()
            .is_some_and(|terminal| terminal.painted.is_some())
        {
            let _ = write("\x1b[?25h"); // the cursor is shown again
        }
    }
}

impl Terminal {
    fn paint(&mut self, frame: &Frame) -> String {
        let (width, height) = size();
        let looks = Looks {
            width,
            height,
            unicode: self.unicode,
        };
        let mut text = String::new();
        match self.painted {
            // What is on the screen scrolls up and stays; the cursor is hidden.
            None => text += &("\n".repeat(height) + "\x1b[?25l"),
            // Wrapped remains of the old size go.
            Some(before) if before != looks => text += "\x1b[2J",
            Some(_) => {}
        }
        self.painted = Some(looks);
        text += "\x1b[H";
        for line in lines(frame, looks) {
            text += &painted(&line, self.colour);
            text += "\x1b[K\r\n";
        }
        text += "\x1b[J";
        text
    }
}

fn painted(line: &Line, colour: bool) -> String {
    if !colour {
        return line.plain();
    }
    let piece = |(paint, text): &(Paint, String)| {
        let code = match paint {
            Paint::Plain => return text.clone(),
            Paint::Dim => "2",
            Paint::Bold => "1",
            Paint::Good => "32",
            Paint::Notable => "33",
            Paint::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    };
    line.0.iter().map(piece).collect()
}

fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        Ok(_) | Err(_) => USUAL,
    }
}

fn is_utf8(locale: &str) -> bool {
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// At once, so that a frame never shows in halves.
fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paint_is_left_out_where_it_is_not_wanted() {
        let line = Line(vec![
            (Paint::Plain, "a ".to_owned()),
            (Paint::Bad, "b".to_owned()),
        ]);
        assert_eq!(painted(&line, true), "a \x1b[31mb\x1b[0m");
        assert_eq!(painted(&line, false), "a b");
    }

    #[test]
    fn locales_say_whether_more_than_ascii_is_shown() {
        for (locale, shown) in [
            ("C.UTF-8", true),
            ("en_US.utf8", true),
            ("C", false),
            ("POSIX", false),
        ] {
            assert_eq!(is_utf8(locale), shown, "{locale}");
        }
    }
}
