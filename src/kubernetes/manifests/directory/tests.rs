//! When a file is believed, in made-up time.

use super::super::watch::How;
use super::*;
use crate::model::World;

struct Fixture {
    root: tempfile::TempDir,
    directory: Directory,
    watch: Watch,
    start: Instant,
    world: World,
}

impl Fixture {
    fn new(text: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.yaml"), text).unwrap();
        let mut fixture = Self {
            directory: Directory::new(root.path().to_owned(), Settings::default()),
            root,
            watch: Watch::blind(),
            start: Instant::now(),
            world: World::default(),
        };
        fixture.look(0);
        fixture
    }

    fn write(&self, text: &str) {
        fs::write(self.root.path().join("a.yaml"), text).unwrap();
    }

    fn remove(&self) {
        fs::remove_file(self.root.path().join("a.yaml")).unwrap();
    }

    /// The kernel tells of the file.
    fn tell(&self, how: How) {
        let path = self.root.path().canonicalize().unwrap().join("a.yaml");
        self.watch.tell(path, how);
    }

    /// Looks so many milliseconds after the start; gives whether anything changed.
    fn look(&mut self, at: u64) -> bool {
        let seen = self
            .directory
            .look(self.start + Duration::from_millis(at), &mut self.watch);
        if let Some((delta, _)) = &seen.change {
            self.world.apply(delta);
        }
        seen.change.is_some()
    }

    fn hosts(&self) -> Vec<String> {
        let routes = self.world.routes.values();
        routes
            .flat_map(|route| &route.hostnames)
            .map(ToString::to_string)
            .collect()
    }
}

fn ingress(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\nspec:\n  rules:\n  - host: {name}.example\n    http:\n      \
         paths: [{{path: /, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]\n"
    )
}

fn two() -> String {
    ingress("a") + "---\n" + &ingress("b")
}

#[test]
fn what_takes_nothing_away_is_believed_at_once() {
    let mut fixture = Fixture::new(&ingress("a"));
    assert_eq!(fixture.hosts(), ["a.example"]);
    assert!(!fixture.look(1), "nothing changed");
    fixture.write(&two());
    assert!(fixture.look(2));
    assert_eq!(fixture.hosts(), ["a.example", "b.example"]);
    fixture.write(&two().replace("a.example", "c.example"));
    assert!(fixture.look(3));
    assert_eq!(fixture.hosts(), ["c.example", "b.example"]);
}

#[test]
fn what_takes_something_away_is_believed_when_it_stays() {
    let cut_between = ingress("a");
    let cut_within = two().trim_end_matches("]\n").to_owned();
    for (text, left) in [
        ("", 0),
        (cut_between.as_str(), 1),
        (cut_within.as_str(), 2),
        ("kind: [\n", 2),
    ] {
        let mut fixture = Fixture::new(&two());
        fixture.write(text);
        assert!(!fixture.look(10), "{text:?}");
        assert!(!fixture.look(59), "{text:?}");
        assert_eq!(fixture.hosts().len(), 2);
        assert!(fixture.look(60), "{text:?}: the objects or the rejects are other");
        assert_eq!(fixture.hosts().len(), left, "{text:?}");
        assert!(!fixture.look(200));
    }
}

#[test]
fn a_slow_writer_is_waited_for() {
    let whole = two();
    let mut fixture = Fixture::new(&whole);
    for (at, length) in [(0, 0), (40, 60), (80, 120), (120, whole.len() - 20)] {
        fixture.write(&whole[..length]);
        assert!(!fixture.look(at), "half a file at {at} ms");
    }
    fixture.write(&whole);
    assert!(!fixture.look(160), "the same as before");
    assert!(!fixture.look(500), "and nothing is doubted any more");
    assert_eq!(fixture.hosts().len(), 2);
}

#[test]
fn a_file_that_is_gone_for_a_moment_was_never_gone() {
    let mut fixture = Fixture::new(&two());
    fixture.remove();
    assert!(!fixture.look(0));
    assert!(!fixture.look(49));
    fixture.write(&two());
    assert!(!fixture.look(51));
    fixture.remove();
    assert!(!fixture.look(100), "the doubt begins anew");
    assert!(!fixture.look(149));
    assert!(fixture.look(150));
    assert!(
        fixture.hosts().is_empty()
            && fixture.directory.files.is_empty()
            && fixture.directory.definitions.is_empty()
    );
}

#[test]
fn a_second_look_is_asked_for_as_long_as_one_is_due() {
    let mut fixture = Fixture::new(&two());
    fixture.write("");
    let seen = fixture.directory.look(fixture.start, &mut fixture.watch);
    assert_eq!(seen.look_again, Some(fixture.start + SECOND_LOOK));
    let seen = fixture
        .directory
        .look(fixture.start + SECOND_LOOK, &mut fixture.watch);
    assert!(seen.look_again.is_none() && seen.change.is_some());
}

#[test]
fn a_file_without_objects_that_were_believed_does_not_linger() {
    let mut fixture = Fixture::new("");
    fixture.remove();
    fixture.look(0);
    assert!(fixture.directory.files.is_empty());
}

#[test]
fn a_file_that_was_deleted_is_gone_soon_and_one_that_was_moved_away_later() {
    // What happened; looks that find nothing new; the look that does.
    let cases: [(How, &[u64], u64); 5] = [
        (How::Deleted, &[0, 5, 9], 10),
        (How::Deleted, &[0], 19),
        (How::Deleted, &[0, 20, 49], 50), // the look came late: the writer may be late as well
        (How::MovedAway, &[0, 10, 49], 50),
        (How::Written, &[0, 10, 49], 50),
    ];
    for (how, doubtful, sure) in cases {
        let mut fixture = Fixture::new(&two());
        fixture.remove();
        fixture.tell(how);
        for at in doubtful {
            assert!(!fixture.look(*at), "{how:?} at {at}");
        }
        assert!(fixture.look(sure), "{how:?} at {sure}");
        assert!(fixture.hosts().is_empty() && fixture.directory.files.is_empty());
        assert!(fixture.directory.walk.files.is_empty() && fixture.directory.walk.by_event.is_empty());
        // And one that comes back is seen.
        fixture.write(&two());
        fixture.tell(How::Placed);
        assert!(fixture.look(sure + 1), "{how:?}");
    }
}

#[test]
fn a_file_that_is_deleted_and_written_anew_was_never_gone() {
    let mut fixture = Fixture::new(&two());
    fixture.remove();
    fixture.tell(How::Deleted);
    assert!(!fixture.look(0));
    fixture.write(&two()[..30]);
    fixture.tell(How::Written);
    assert!(!fixture.look(10), "half of it");
    fixture.write(&two());
    fixture.tell(How::Written);
    assert!(!fixture.look(15));
    assert!(!fixture.look(500));
    assert_eq!(fixture.hosts().len(), 2);
}

#[test]
fn a_second_look_is_asked_for_when_it_is_due() {
    let mut fixture = Fixture::new(&two());
    fixture.remove();
    fixture.tell(How::Deleted);
    let at = |ms| fixture.start + Duration::from_millis(ms);
    let (first, late) = (at(0), at(30));
    let (soon, later) = (first + LOOK_AFTER_DELETION, first + SECOND_LOOK);
    let seen = fixture.directory.look(first, &mut fixture.watch);
    assert_eq!(seen.look_again, Some(soon));
    let seen = fixture.directory.look(late, &mut fixture.watch);
    assert_eq!(seen.look_again, Some(later));
}
