//! The store against files as they may be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::acme::plan::Failure;
use crate::acme::vault::Files;
use crate::model::acme::DirectoryUrl;
use crate::model::tls::test_pair;

fn name(text: &str) -> ManagedName {
    ManagedName::parse(text).unwrap()
}

fn authority() -> DirectoryUrl {
    DirectoryUrl::parse("https://ca.example/dir").unwrap()
}

/// A store, and where it is.
struct Open {
    files: Files,
    store: Store,
}

impl std::ops::Deref for Open {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Open {
    fn root(&self) -> &Path {
        self.files.root()
    }
}

fn open(base: &Path) -> Open {
    open_for(base, &authority())
}

fn open_for(base: &Path, authority: &DirectoryUrl) -> Open {
    let files = Files::open(base, authority).unwrap();
    Open {
        store: Store::new(Arc::new(files.clone())),
        files,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

async fn look(store: &Store, names: &[ManagedName]) -> Contents {
    again(store, names, &Contents::default(), SystemTime::now()).await
}

async fn again(store: &Store, names: &[ManagedName], before: &Contents, now: SystemTime) -> Contents {
    let names = names.iter().cloned().collect();
    store.read(&names, before.clone(), now).await
}

#[tokio::test]
async fn what_is_kept_is_there_again_and_nobody_else_may_read_it() {
    let base = tempfile::tempdir().unwrap();
    let base = base.path().join("new/store");
    let store = open(&base);
    let names = [name("a.example"), name("*.b.example"), name("c.example")];
    for wanted in &names[..2] {
        let (chain, key) = test_pair(&[&wanted.to_string()], false);
        store.put_certificate(wanted, &chain, &key).await.unwrap();
    }
    let notes = Notes {
        failures: 3,
        failure: Some(Failure {
            at: 1,
            refused: true,
            why: "no".to_owned(),
            not_before: 2,
        }),
        window: None,
    };
    store.put_notes(&names[2], &notes).await.unwrap();
    store.put_account(&["account"]).await.unwrap();

    let again = open(&base);
    let contents = look(&again, &names).await;
    assert!(contents.broken.is_empty(), "{:?}", contents.broken);
    let found: Vec<_> = names
        .iter()
        .map(|name| contents.entries[name].certificate.is_some())
        .collect();
    assert_eq!(found, [true, true, false]);
    assert_eq!(contents.entries[&names[2]].notes, notes);
    assert!(
        contents.entries[&names[0]]
            .life()
            .is_some_and(|life| life.from < life.until)
    );
    assert_eq!(
        again.account::<Vec<String>>().await.unwrap().unwrap(),
        ["account"]
    );
    again.remove_account().await.unwrap();
    assert_eq!(again.account::<Vec<String>>().await.unwrap(), None);

    let mut open = vec![store.root().to_owned(), base.clone()];
    let mut files = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            assert_eq!(mode(&path), 0o700, "{}", path.display());
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files += 1;
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
    assert!(files >= 3);
    // Another authority's has nothing of it.
    let other = DirectoryUrl::parse("https://ca.example/other").unwrap();
    let other = open_for(&base, &other);
    assert!(
        look(&other, &names).await.entries[&names[0]]
            .certificate
            .is_none()
    );
}

#[tokio::test]
async fn what_is_bad_is_told_with_its_place_and_the_rest_is_used() {
    let base = tempfile::tempdir().unwrap();
    let store = open(base.path());
    let names: Vec<_> = [
        "good.example",
        "half.example",
        "open.example",
        "other.example",
        "notes.example",
    ]
    .into_iter()
    .map(name)
    .collect();
    for wanted in &names {
        let (chain, key) = test_pair(&[&wanted.to_string()], false);
        store.put_certificate(wanted, &chain, &key).await.unwrap();
    }
    let path = |name: &str| store.root().join("certificates").join(format!("{name}.pem"));
    let whole = fs::read(path("half.example")).unwrap();
    fs::write(path("half.example"), &whole[..whole.len() - 60]).unwrap();
    chmod(&path("open.example"), 0o644);
    fs::copy(path("good.example"), path("other.example")).unwrap();
    let notes = store.root().join("notes/notes.example.json");
    fs::write(&notes, "{\"failures\": secret}").unwrap();
    chmod(&notes, 0o600);

    let contents = look(&store, &names).await;
    let broken: Vec<_> = contents.broken.iter().map(ToString::to_string).collect();
    assert_eq!(broken.len(), 4, "{broken:?}");
    for (place, words) in [
        (path("half.example"), "it is not PEM"),
        (
            path("open.example"),
            "others may read or write it (mode 644); chmod 600",
        ),
        (path("other.example"), "it is not for other.example"),
        (notes, "it cannot be understood (line 1"),
    ] {
        let place = place.display().to_string();
        assert!(
            broken
                .iter()
                .any(|text| text.starts_with(&place) && text.contains(words)),
            "{place} {words}: {broken:?}"
        );
    }
    assert!(!broken.concat().contains("secret"));
    let good: Vec<_> = names
        .iter()
        .filter(|name| contents.entries[*name].certificate.is_some())
        .map(ToString::to_string)
        .collect();
    assert_eq!(good, ["good.example", "notes.example"]);

    // It is said again as long as it is so, and no longer.
    let later = again(&store, &names, &contents, SystemTime::now()).await;
    assert_eq!(later.broken.len(), 4);
    let (chain, key) = test_pair(&["half.example"], false);
    store.put_certificate(&names[1], &chain, &key).await.unwrap();
    let later = again(&store, &names, &later, SystemTime::now()).await;
    assert_eq!(later.broken.len(), 3);

    chmod(&store.root().join("certificates"), 0o755);
    let refused = Files::open(base.path(), &authority()).unwrap_err().to_string();
    assert!(
        refused.contains("certificates: others may read or write it (mode 755)"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_file_that_has_not_changed_is_not_read_again_and_one_that_has_ended_is_gone() {
    let base = tempfile::tempdir().unwrap();
    let store = open(base.path());
    let names = [name("a.example")];
    let (chain, key) = test_pair(&["a.example"], false);
    store.put_certificate(&names[0], &chain, &key).await.unwrap();
    let first = look(&store, &names).await;
    let same = |one: &Contents, other: &Contents| {
        let of = |contents: &Contents| contents.entries[&names[0]].certificate.clone().unwrap();
        Arc::ptr_eq(&of(one), &of(other))
    };
    let second = again(&store, &names, &first, SystemTime::now()).await;
    assert!(same(&first, &second));
    store.put_certificate(&names[0], &chain, &key).await.unwrap();
    let third = again(&store, &names, &second, SystemTime::now()).await;
    assert!(!same(&second, &third));
    let until = third.entries[&names[0]].life().unwrap().until;
    let late = UNIX_EPOCH + Duration::from_secs(until + 1);
    let fourth = again(&store, &names, &third, late).await;
    assert!(fourth.entries[&names[0]].certificate.is_none());
}

#[tokio::test]
async fn one_has_the_lock_until_it_lets_go() {
    let base = tempfile::tempdir().unwrap();
    let (one, other) = (open(base.path()), open(base.path()));
    let lock = one.vault().lock().await.unwrap().unwrap();
    assert!(lock.is_held());
    for another in [&other, &one] {
        assert!(another.vault().lock().await.unwrap().is_none());
    }
    lock.give_back().await;
    assert!(other.vault().lock().await.unwrap().is_some());
}

#[tokio::test]
async fn answers_are_shared_bounded_and_do_not_live_for_ever() {
    let base = tempfile::tempdir().unwrap();
    let (one, other) = (open(base.path()), open(base.path()));
    let now = SystemTime::now();
    let answer = |token: &str, since: u64| Answer {
        kind: "http-01".to_owned(),
        name: "a.example".to_owned(),
        token: token.to_owned(),
        key_authorization: format!("{token}.x"),
        since,
    };
    let new = answer("tok-EN_1", unix(now));
    one.put_answer(&new).await.unwrap();
    one.put_answer(&answer("old", unix(now) - ANSWER_LIFE))
        .await
        .unwrap();
    assert_eq!(look(&other, &[]).await.answers, [new]);
    other.remove_answer("tok-EN_1").await.unwrap();
    assert!(look(&one, &[]).await.answers.is_empty());
    for token in ["", "../../etc/passwd", "a/b", ".", "a.b", &"x".repeat(129)] {
        let refused = one.put_answer(&answer(token, 0)).await.unwrap_err();
        assert!(refused.to_string().contains("token"), "{token}");
    }
    for number in 0..MAX_ANSWERS + 5 {
        one.put_answer(&answer(&format!("t{number}"), unix(now)))
            .await
            .unwrap();
    }
    assert_eq!(look(&one, &[]).await.answers.len(), MAX_ANSWERS);
    let half = one.root().join("certificates/.new-0123");
    fs::write(&half, "half a key").unwrap();
    one.vault().sweep().await.unwrap();
    assert!(!half.exists());
    assert!(look(&one, &[]).await.answers.is_empty());
}
