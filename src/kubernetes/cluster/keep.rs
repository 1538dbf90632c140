//! Keeping what the API server said in a file, so that a process that starts without one has a world to serve.
//!
//! The file is a journal, `objects`, of lines: `+ Kind namespace/name {…}` for an object as the API server sent it, `- Kind namespace/name`
//! for one that is gone. The last line about an object counts. Lines are gathered for two seconds, where the same object counts once, and
//! appended; when more than half of a journal is out of date it is written anew beside itself and renamed into place. A line that was
//! torn by a crash is left out when it is read. So what a rollout costs is its changes, not the world, and there is always a whole file.
//!
//! Nothing that follows the API server waits for the disk: what is to be written gathers in memory, up to a bound, and a disk that fails is
//! told in the log and left alone.
//!
//! The journal holds the Secrets that are served too (type `kubernetes.io/tls`), because without their keys half of the world could not
//! be served. It is readable by its owner alone (0600, in a directory of 0700), and is better off on a volume in memory or one that is encrypted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::kubernetes::objects::{Id, Key, Kind, Object};

/// How long changes are gathered.
const GATHER: Duration = Duration::from_secs(2);

/// What may wait for the disk, in bytes. Beyond that nothing more is kept.
const MAX_PENDING: usize = 256 * 1024 * 1024;

/// The largest journal that is read or written.
const MAX_JOURNAL: u64 = 2 * 1024 * 1024 * 1024;

/// A journal this much out of date is written anew, if that is half of it.
const MIN_WASTE: u64 = 16 * 1024 * 1024;

/// The first line.
const HEADER: &str = "tidegate objects 1\n";

/// Takes what is to be kept. Never waits.
#[derive(Clone, Debug, Default)]
pub struct Keeper(Option<Arc<Mutex<Pending>>>);

/// What is to be written.
#[derive(Debug, Default)]
struct Pending {
    /// All that there is of a kind, where a list was read.
    resets: BTreeMap<Kind, BTreeSet<Key>>,
    /// Objects as they are, or gone.
    notes: BTreeMap<Key, Option<Box<str>>>,
    bytes: usize,
    /// Too much waited.
    is_over: bool,
}

impl Keeper {
    /// One that keeps, and what writes for it.
    pub fn new(journal: Journal) -> (Self, Writer) {
        let pending = Arc::new(Mutex::default());
        let writer = Writer {
            journal,
            pending: Arc::clone(&pending),
        };
        (Self(Some(pending)), writer)
    }

    /// Whether anything is kept.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// An object, as the API server sent it.
    pub fn put(&self, key: Key, text: &str) {
        self.note(key, Some(text));
    }

    /// An object is gone.
    pub fn gone(&self, key: Key) {
        self.note(key, None);
    }

    /// These are all objects of a kind.
    pub fn all(&self, kind: Kind, keys: BTreeSet<Key>) {
        let Some(mut pending) = self.lock() else { return };
        pending
            .notes
            .retain(|key, _| key.kind != kind || keys.contains(key));
        pending.resets.insert(kind, keys);
    }

    fn note(&self, key: Key, text: Option<&str>) {
        let Some(mut pending) = self.lock() else { return };
        let pending = &mut *pending;
        // A line break in JSON can only be between tokens.
        let text: Option<Box<str>> = text.map(|text| match memchr::memchr2(b'\n', b'\r', text.as_bytes()) {
            None => text.into(),
            Some(_) => text.replace(['\n', '\r'], " ").into(),
        });
        let length = |text: &Option<Box<str>>| text.as_deref().map_or(0, str::len);
        pending.bytes += length(&text);
        let old = pending.notes.insert(key, text);
        pending.bytes = pending.bytes.saturating_sub(old.as_ref().map_or(0, length));
        if pending.bytes > MAX_PENDING {
            *pending = Pending {
                is_over: true,
                ..Pending::default()
            };
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Pending>> {
        let pending = self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        (!pending.is_over).then_some(pending)
    }
}

/// Writes what a [`Keeper`] takes.
#[derive(Debug)]
pub struct Writer {
    journal: Journal,
    pending: Arc<Mutex<Pending>>,
}

impl Writer {
    /// Until the disk fails.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(GATHER).await;
            let written = tokio::task::spawn_blocking(move || {
                let result = self.write();
                (self, result)
            });
            match written.await {
                Ok((writer, Ok(()))) => self = writer,
                Ok((writer, Err(error))) => {
                    tracing::error!(
                        "nothing is kept on disk any more: {}: {error}",
                        writer.journal.path.display()
                    );
                    lock(&writer.pending).is_over = true;
                    return;
                }
                Err(_) => return, // the process ends
            }
        }
    }

    /// Writes what waits.
    fn write(&mut self) -> io::Result<()> {
        let pending = {
            let mut pending = lock(&self.pending);
            if pending.is_over {
                return Err(io::Error::other("too much waits to be written"));
            }
            std::mem::take(&mut *pending)
        };
        self.journal.write(&pending)
    }
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Where the last line about each object is: its place and length.
    lines: BTreeMap<Key, (u64, u32)>,
    /// The length of those lines.
    live: u64,
    length: u64,
    /// Held while the process lives: two do not write to one file.
    _lock: File,
}

impl Journal {
    /// Opens the journal of a directory, which is made if it is not there, and reads what it holds. Waits for the disk.
    ///
    /// # Errors
    /// A directory that cannot be made or written to, or that another process writes to.
    pub fn open(directory: &Path) -> io::Result<(Self, Vec<Object>)> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let held = options.open(directory.join("lock"))?;
        held.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => io::Error::other("another process keeps its objects there"),
            fs::TryLockError::Error(error) => error,
        })?;
        let path = directory.join("objects");
        let file = options.open(&path)?;
        let mut journal = Self {
            path,
            file,
            lines: BTreeMap::new(),
            live: 0,
            length: 0,
            _lock: held,
        };
        journal.read()?;
        let objects = journal.objects()?;
        Ok((journal, objects))
    }

    /// Finds the lines, and cuts off what is torn. What is no journal is begun anew.
    fn read(&mut self) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        let mut input = BufReader::new(self.file.try_clone()?);
        let mut line = String::new();
        let mut at = 0;
        if size <= MAX_JOURNAL {
            input.by_ref().take(HEADER.len() as u64).read_line(&mut line)?;
        }
        if line == HEADER {
            at = HEADER.len() as u64;
            let mut bytes = Vec::new();
            loop {
                bytes.clear();
                let length = input.read_until(b'\n', &mut bytes)?;
                if bytes.last() != Some(&b'\n') {
                    break;
                }
                if let Some((key, is_there)) = std::str::from_utf8(&bytes).ok().and_then(head) {
                    self.learn(
                        key,
                        is_there.then_some((at, u32::try_from(length).unwrap_or(u32::MAX))),
                    );
                }
                at += length as u64;
            }
        }
        self.length = at;
        self.file.set_len(at)?;
        self.file.seek(SeekFrom::Start(at))?;
        if at == 0 {
            self.file.write_all(HEADER.as_bytes())?;
            self.length = HEADER.len() as u64;
        }
        Ok(())
    }

    /// The objects that can be read.
    fn objects(&self) -> io::Result<Vec<Object>> {
        let mut objects = Vec::with_capacity(self.lines.len());
        for (key, (at, length)) in &self.lines {
            let mut bytes = vec![0; *length as usize];
            self.file.read_exact_at(&mut bytes, *at)?;
            let text = String::from_utf8_lossy(&bytes);
            let object = text.splitn(4, ' ').nth(3).and_then(|json| {
                let mut input = serde_json::Deserializer::from_str(json);
                Object::decode(key.kind, &mut input).ok()
            });
            objects.extend(object);
        }
        Ok(objects)
    }

    fn write(&mut self, pending: &Pending) -> io::Result<()> {
        let gone: Vec<Key> = self
            .lines
            .keys()
            .filter(|key| {
                pending
                    .resets
                    .get(&key.kind)
                    .is_some_and(|all| !all.contains(key))
            })
            .filter(|key| !pending.notes.contains_key(key))
            .cloned()
            .collect();
        if gone.is_empty() && pending.notes.is_empty() {
            return Ok(());
        }
        let mut out = BufWriter::new(&self.file);
        let mut at = self.length;
        let mut learned = Vec::with_capacity(pending.notes.len());
        let notes = pending.notes.iter().map(|(key, text)| (key, text.as_deref()));
        for (key, text) in gone.iter().map(|key| (key, None)).chain(notes) {
            let line = match text {
                Some(text) => format!(
                    "+ {} {}/{} {text}\n",
                    key.kind.name(),
                    key.id.namespace,
                    key.id.name
                ),
                None if self.lines.contains_key(key) => {
                    format!("- {} {}/{}\n", key.kind.name(), key.id.namespace, key.id.name)
                }
                None => continue,
            };
            out.write_all(line.as_bytes())?;
            let length = u32::try_from(line.len()).map_err(io::Error::other)?;
            learned.push((key.clone(), text.map(|_| (at, length))));
            at += u64::from(length);
        }
        out.flush()?;
        drop(out);
        self.file.sync_data()?;
        self.length = at;
        for (key, place) in learned {
            self.learn(key, place);
        }
        let waste = self.length - self.live;
        if waste > MIN_WASTE && waste > self.live {
            self.compact()?;
        }
        if self.length > MAX_JOURNAL {
            return Err(io::Error::other("there is too much to be kept"));
        }
        Ok(())
    }

    /// The last line about an object is this one now; none: it is gone.
    fn learn(&mut self, key: Key, place: Option<(u64, u32)>) {
        let old = match place {
            Some(place) => {
                self.live += u64::from(place.1);
                self.lines.insert(key, place)
            }
            None => self.lines.remove(&key),
        };
        self.live -= old.map_or(0, |(_, length)| u64::from(length));
    }

    /// Writes the journal anew, with one line for each object.
    fn compact(&mut self) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600);
        let file = options.open(&beside)?;
        let mut out = BufWriter::new(&file);
        out.write_all(HEADER.as_bytes())?;
        let mut at = HEADER.len() as u64;
        let mut lines = BTreeMap::new();
        for (key, (from, length)) in &self.lines {
            let mut bytes = vec![0; *length as usize];
            self.file.read_exact_at(&mut bytes, *from)?;
            out.write_all(&bytes)?;
            lines.insert(key.clone(), (at, *length));
            at += u64::from(*length);
        }
        out.flush()?;
        drop(out);
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        (self.file, self.lines, self.length) = (file, lines, at);
        Ok(())
    }
}

/// Which object a line is about, and whether it is there.
fn head(line: &str) -> Option<(Key, bool)> {
    let mut words = line.trim_end_matches('\n').splitn(4, ' ');
    let is_there = match words.next()? {
        "+" => true,
        "-" => false,
        _ => return None,
    };
    let kind = words.next()?;
    let kind = Kind::ALL.iter().copied().find(|known| known.name() == kind)?;
    let (namespace, name) = words.next()?.split_once('/')?;
    let key = Key {
        kind,
        id: Id::new(namespace, name),
    };
    Some((key, is_there))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::kubernetes::testing::key;

    fn service(name: &str, port: u16) -> (Key, String) {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n"}},"spec":{{"ports":[{{"port":{port}}}]}}}}"#
        );
        (key(Kind::Service, "n", name), text)
    }

    /// What a journal holds, as `name port`.
    fn held(objects: &[Object]) -> Vec<String> {
        let ports = objects.iter().filter_map(|object| match object {
            Object::Service(service) => Some(format!(
                "{} {}",
                service.metadata.name, service.spec.ports[0].port.0
            )),
            _ => None,
        });
        ports.collect()
    }

    fn put(keeper: &Keeper, (key, text): (Key, String)) {
        keeper.put(key, &text);
    }

    #[test]
    fn what_is_kept_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("a/b");
        let (journal, objects) = Journal::open(&home).unwrap();
        assert_eq!(held(&objects), [""; 0]);
        assert!(Journal::open(&home).is_err(), "two processes do not share it");
        let (keeper, mut writer) = Keeper::new(journal);
        put(&keeper, service("a", 1));
        put(&keeper, service("b", 2));
        put(&keeper, service("a", 3));
        writer.write().unwrap();
        put(&keeper, service("c", 4));
        keeper.gone(service("b", 2).0);
        keeper.gone(service("never", 2).0);
        writer.write().unwrap();
        drop(writer);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&home), mode(&home.join("objects"))), (0o700, 0o600));

        let (journal, objects) = Journal::open(&home).unwrap();
        assert_eq!(held(&objects), ["a 3", "c 4"]);
        // A list that was read anew says what is gone, and what comes after it counts.
        let (keeper, mut writer) = Keeper::new(journal);
        put(&keeper, service("d", 5));
        put(&keeper, service("lost", 5));
        keeper.all(Kind::Service, [service("c", 4).0, service("d", 5).0].into());
        put(&keeper, service("e", 6));
        writer.write().unwrap();
        drop(writer);
        assert_eq!(held(&Journal::open(&home).unwrap().1), ["c 4", "d 5", "e 6"]);
    }

    #[test]
    fn what_is_torn_is_left_out_and_what_is_foreign_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("objects");
        let (key, text) = service("a", 1);
        let line = format!("+ Service n/{} {text}\n", key.id.name);
        for (content, expected) in [
            (format!("{HEADER}{line}+ Service n/b {{\"meta"), vec!["a 1"]),
            (
                format!("{HEADER}nonsense\n+ Nothing n/x {{}}\n{line}"),
                vec!["a 1"],
            ),
            (format!("{HEADER}{line}+ Service n/b {{}}\n"), vec!["a 1"]),
            (format!("{HEADER}{line}- Service n/a\n"), vec![]),
            ("another's".to_owned(), vec![]),
            (String::new(), vec![]),
        ] {
            fs::write(&path, &content).unwrap();
            let (journal, objects) = Journal::open(directory.path()).unwrap();
            assert_eq!(held(&objects), expected, "{content}");
            // And it goes on from there.
            let (keeper, mut writer) = Keeper::new(journal);
            put(&keeper, service("z", 9));
            writer.write().unwrap();
            drop(writer);
            let (_, objects) = Journal::open(directory.path()).unwrap();
            assert_eq!(
                held(&objects).last().map(String::as_str),
                Some("z 9"),
                "{content}"
            );
        }
    }

    #[test]
    fn a_journal_that_is_out_of_date_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(directory.path()).unwrap();
        let (keeper, mut writer) = Keeper::new(journal);
        put(&keeper, service("small", 1));
        let padding = "x".repeat(1 << 20);
        let mut longest = 0;
        for port in 1..60 {
            let (key, text) = service("large", port);
            let text = text.replace("\"spec\"", &format!("\"padding\":\"{padding}\",\"spec\""));
            keeper.put(key, &text);
            writer.write().unwrap();
            longest = longest.max(writer.journal.length);
        }
        assert!(longest < 2 * MIN_WASTE, "{longest}");
        drop(writer);
        assert_eq!(
            held(&Journal::open(directory.path()).unwrap().1),
            ["large 59", "small 1"]
        );
    }

    #[test]
    fn what_waits_has_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(directory.path()).unwrap();
        let (keeper, mut writer) = Keeper::new(journal);
        let text = "x".repeat(MAX_PENDING / 4);
        for name in ["a", "a", "a", "a", "a", "a"] {
            keeper.put(key(Kind::Service, "n", name), &text);
        }
        assert!(!lock(&writer.pending).is_over, "the same object counts once");
        for name in ["b", "c", "d", "e"] {
            keeper.put(key(Kind::Service, "n", name), &text);
        }
        assert!(lock(&writer.pending).is_over && lock(&writer.pending).notes.is_empty());
        assert!(writer.write().is_err());
    }
}
