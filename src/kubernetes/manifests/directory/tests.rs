//! When a file is believed, in made-up time.

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
