//! What to ask the API server next about one kind: a state machine without I/O.
//!
//! ```text
//!            ┌── 404 ───────────────┐  ┌── 410: too old ────────────┐
//!            ▼                      │  ▼                            │
//!  find a version ──► stream, or if refused (400, 422) pages ──► watch on ─┐
//!     │      ▲                                   ▲                 ▲ └─────┘ ended, lost: from the last version
//!     ▼      │ 10 s later                        └─ lost: anew     │
//!   absent ──┘                                   whole: one reset ─┘
//! ```
//!
//! A list is given out when it is whole and not before, so what is known stays until it can be compared with everything that
//! there is now. Kinds of the core are there; those of the Gateway API are asked for, because they may be missing or come in
//! an older version. A kind that was there and is missing must be missing for three looks in a row: an API server that is
//! starting may not know all its kinds yet.

use std::collections::BTreeMap;
use std::time::Duration;

use super::backoff::Backoff;
use super::events::{Event, Page, Read, Version};
use crate::kubernetes::gateway::GROUP;
use crate::kubernetes::objects::{Key, Kind};

/// When a kind that is missing is looked for again.
pub const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How often a kind that was there must be found missing.
const MISSING_LOOKS: u8 = 3;

/// A watch that ends sooner was of no use, and the next waits.
const USEFUL: Duration = Duration::from_secs(5);

/// The next question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// What resources does this version of the group have?
    Resources(&'static str),
    /// A page of the list.
    Page(&'static str, Option<Box<str>>),
    /// All objects, then what becomes of them.
    Stream(&'static str),
    /// What became of them since then.
    Watch(&'static str, Version),
}

/// What came of a question.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// Whether the resource is among those of the version.
    Resource(bool),
    /// A page.
    Page(Page),
    /// A stream has begun.
    Opened,
    /// A line of a stream.
    Event(Event),
    /// A stream is over, after this time.
    Ended(Duration),
    /// An HTTP status that is no success.
    Refused(u16, String),
    /// The connection failed, or what came makes no sense.
    Lost(String),
}

/// What the owner of the index is told.
#[derive(Debug, PartialEq)]
pub enum Said {
    /// These are all objects of the kind.
    All(Kind, Vec<Read>),
    /// The API server does not have the kind.
    Missing(Kind),
    /// An object is new or changed.
    Put(Read),
    /// An object is gone.
    Gone(Key),
    /// The kind cannot be followed at the moment.
    Away(Kind, String),
    /// It is followed again.
    Back(Kind),
}

/// What to do after something was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Read on.
    Listen,
    /// Ask the next question.
    Ask,
    /// Ask it after a pause.
    Pause(Duration),
}

/// How one kind is followed.
#[derive(Debug)]
pub struct Follow {
    kind: Kind,
    state: State,
    /// Whether the API server may have lists as streams.
    may_stream: bool,
    /// Whether the owner of the index was given objects.
    was_there: bool,
    /// Whether the owner of the index was told that it is away.
    is_away: bool,
    backoff: Backoff,
}

#[derive(Debug)]
enum State {
    /// Looking for a version; the first `asked` were asked for. `looks` before found nothing.
    Find { asked: usize, looks: u8 },
    /// Reading a list by pages.
    Pages {
        version: &'static str,
        token: Option<Box<str>>,
        read: Vec<Read>,
    },
    /// Reading a list as a stream.
    Stream {
        version: &'static str,
        read: BTreeMap<Key, Read>,
    },
    /// Watching.
    Watch { version: &'static str, since: Version },
}

impl Follow {
    /// Of which nothing is known yet.
    pub fn new(kind: Kind) -> Self {
        let mut new = Self {
            kind,
            state: State::Find { asked: 0, looks: 0 },
            // A stream of definitions never says that all were sent.
            may_stream: kind != Kind::CustomResourceDefinition,
            was_there: false,
            is_away: false,
            backoff: Backoff::default(),
        };
        if kind.group() != GROUP {
            new.list(kind.versions()[0]);
        }
        new
    }

    /// The question to ask now.
    pub fn ask(&self) -> Ask {
        match &self.state {
            State::Find { asked, .. } => {
                let versions = self.kind.versions();
                Ask::Resources(versions[(*asked).min(versions.len() - 1)])
            }
            State::Pages { version, token, .. } => Ask::Page(version, token.clone()),
            State::Stream { version, .. } => Ask::Stream(version),
            State::Watch { version, since } => Ask::Watch(version, since.clone()),
        }
    }

    /// Takes what came of it; `chance` from 0 to 1 is for the pauses. What is said goes to the owner of the index.
    pub fn hear(&mut self, heard: Heard, chance: f64, said: &mut Vec<Said>) -> Then {
        match heard {
            Heard::Resource(is_there) => self.resource(is_there, said),
            Heard::Page(page) => self.page(page, said),
            Heard::Opened => {
                if matches!(self.state, State::Watch { .. }) {
                    self.back(said);
                }
                Then::Listen
            }
            Heard::Event(event) => self.event(event, chance, said),
            Heard::Ended(lived) => {
                if let State::Stream { version, .. } = self.state {
                    self.list(version);
                }
                if lived >= USEFUL {
                    self.backoff.succeeded();
                    return Then::Ask;
                }
                Then::Pause(self.backoff.failed(chance))
            }
            Heard::Refused(status, why) => self.refused(status, why, chance, said),
            Heard::Lost(why) => {
                if let State::Stream { version, .. } = self.state {
                    self.list(version);
                }
                self.away(why, chance, said)
            }
        }
    }

    fn resource(&mut self, is_there: bool, said: &mut Vec<Said>) -> Then {
        let State::Find { asked, looks } = self.state else {
            return Then::Ask;
        };
        if is_there {
            self.list(self.kind.versions()[asked.min(self.kind.versions().len() - 1)]);
            return Then::Ask;
        }
        if asked + 1 < self.kind.versions().len() {
            let asked = asked + 1;
            self.state = State::Find { asked, looks };
            return Then::Ask;
        }
        let looks = looks.saturating_add(1);
        self.state = State::Find { asked: 0, looks };
        self.backoff.succeeded();
        if !self.was_there || looks >= MISSING_LOOKS {
            self.was_there = false;
            self.is_away = false;
            said.push(Said::Missing(self.kind));
        }
        Then::Pause(LOOK_AGAIN)
    }

    fn page(&mut self, page: Page, said: &mut Vec<Said>) -> Then {
        let State::Pages { version, token, read } = &mut self.state else {
            return Then::Ask;
        };
        self.backoff.succeeded();
        read.extend(page.objects);
        if page.next.is_some() {
            *token = page.next;
            return Then::Ask;
        }
        let (version, read) = (*version, std::mem::take(read));
        self.whole(version, read, page.version, said);
        Then::Ask
    }

    fn event(&mut self, event: Event, chance: f64, said: &mut Vec<Said>) -> Then {
        if let Event::Failed(status, why) = event {
            return self.refused(status, why, chance, said);
        }
        match &mut self.state {
            State::Stream { version, read } => match event {
                Event::Put(object, _) => {
                    read.insert(object.key(), object);
                }
                Event::Gone(key, _) => {
                    read.remove(&key);
                }
                Event::AllSent(since) => {
                    let (version, read) = (*version, std::mem::take(read));
                    self.backoff.succeeded();
                    self.whole(version, read.into_values().collect(), since, said);
                }
                Event::Bookmark(_) | Event::Failed(..) => {}
            },
            State::Watch { since, .. } => match event {
                Event::Put(object, now) => {
                    *since = now;
                    said.push(Said::Put(object));
                }
                Event::Gone(key, now) => {
                    *since = now;
                    said.push(Said::Gone(key));
                }
                Event::Bookmark(now) | Event::AllSent(now) => *since = now,
                Event::Failed(..) => {}
            },
            State::Find { .. } | State::Pages { .. } => {}
        }
        Then::Listen
    }

    fn refused(&mut self, status: u16, why: String, chance: f64, said: &mut Vec<Said>) -> Then {
        match (&self.state, status) {
            (State::Find { .. }, 404) => return self.resource(false, said),
            (State::Stream { version, .. }, 400 | 422) => {
                let version = *version;
                self.may_stream = false;
                self.list(version);
                return Then::Ask;
            }
            (State::Watch { version, .. }, 410) => {
                let version = *version;
                self.list(version);
                return Then::Ask;
            }
            (State::Pages { version, .. } | State::Stream { version, .. }, 410) => {
                let version = *version;
                self.list(version);
            }
            (_, 404) if self.kind.group() == GROUP => {
                self.state = State::Find { asked: 0, looks: 0 };
            }
            (State::Stream { version, .. }, _) => {
                let version = *version;
                self.list(version);
            }
            _ => {}
        }
        self.away(format!("HTTP {status}: {why}"), chance, said)
    }

    /// The list is whole.
    fn whole(&mut self, version: &'static str, read: Vec<Read>, since: Version, said: &mut Vec<Said>) {
        self.state = State::Watch { version, since };
        self.was_there = true;
        said.push(Said::All(self.kind, read));
        self.back(said);
    }

    /// From here on a list is read anew.
    fn list(&mut self, version: &'static str) {
        self.state = if self.may_stream {
            State::Stream {
                version,
                read: BTreeMap::new(),
            }
        } else {
            State::Pages {
                version,
                token: None,
                read: Vec::new(),
            }
        };
    }

    fn away(&mut self, why: String, chance: f64, said: &mut Vec<Said>) -> Then {
        self.is_away = true;
        said.push(Said::Away(self.kind, why));
        Then::Pause(self.backoff.failed(chance))
    }

    fn back(&mut self, said: &mut Vec<Said>) {
        if std::mem::take(&mut self.is_away) {
            said.push(Said::Back(self.kind));
        }
    }
}

#[cfg(test)]
mod tests;
