//! What is asked after what was heard, in tables.

use super::*;
use crate::kubernetes::index::Complaint;
use crate::kubernetes::objects::Id;

const ROUTE: Kind = Kind::HttpRoute;

fn key(name: &str) -> Key {
    Key {
        kind: ROUTE,
        id: Id::new("n", name),
    }
}

fn read(name: &str) -> Read {
    Read::Broken(key(name), Complaint::new("", ""))
}

fn put(name: &str, version: &str) -> Heard {
    Heard::Event(Event::Put(read(name), version.into()))
}

fn page(names: &[&str], next: Option<&str>) -> Heard {
    Heard::Page(Page {
        objects: names.iter().map(|name| read(name)).collect(),
        version: "5".into(),
        next: next.map(Into::into),
    })
}

fn refused(status: u16) -> Heard {
    Heard::Refused(status, "why".to_owned())
}

fn away(status: u16) -> Said {
    Said::Away(ROUTE, format!("HTTP {status}: why"))
}

/// Feeds; gives what was said and what is to be done after the last.
fn feed(follow: &mut Follow, heard: Vec<Heard>) -> (Vec<Said>, Then) {
    let mut said = Vec::new();
    let mut then = Then::Ask;
    for heard in heard {
        then = follow.hear(heard, 0.0, &mut said);
    }
    (said, then)
}

fn found() -> Follow {
    let mut follow = Follow::new(ROUTE);
    feed(&mut follow, vec![Heard::Resource(true)]);
    follow
}

fn watching() -> Follow {
    let mut follow = found();
    let heard = vec![
        Heard::Opened,
        put("a", "1"),
        Heard::Event(Event::AllSent("3".into())),
    ];
    assert_eq!(
        feed(&mut follow, heard),
        (vec![Said::All(ROUTE, vec![read("a")])], Then::Listen)
    );
    follow
}

const PAUSE: Then = Then::Pause(Duration::from_millis(100));

#[test]
fn the_core_is_there_and_the_rest_is_looked_for() {
    assert_eq!(Follow::new(Kind::Service).ask(), Ask::Stream("v1"));
    let mut follow = Follow::new(ROUTE);
    assert_eq!(follow.ask(), Ask::Resources("v1"));
    assert_eq!(
        feed(&mut follow, vec![Heard::Resource(false)]),
        (vec![], Then::Ask)
    );
    assert_eq!(follow.ask(), Ask::Resources("v1beta1"));
    assert_eq!(
        feed(&mut follow, vec![Heard::Resource(true)]),
        (vec![], Then::Ask)
    );
    assert_eq!(follow.ask(), Ask::Stream("v1beta1"));

    let mut follow = Follow::new(ROUTE);
    assert_eq!(
        feed(&mut follow, vec![refused(404), refused(404)]),
        (vec![Said::Missing(ROUTE)], Then::Pause(LOOK_AGAIN))
    );
    assert_eq!(follow.ask(), Ask::Resources("v1"), "and again");
    let mut follow = Follow::new(ROUTE);
    assert_eq!(feed(&mut follow, vec![refused(503)]), (vec![away(503)], PAUSE));
    assert_eq!(follow.ask(), Ask::Resources("v1"), "no answer is not a no");
}

#[test]
fn a_kind_that_was_there_must_be_missing_for_three_looks() {
    let mut follow = watching();
    assert_eq!(feed(&mut follow, vec![refused(404)]).0, [away(404)]);
    for _ in 0..2 {
        assert_eq!(
            feed(&mut follow, vec![refused(404), refused(404)]),
            (vec![], Then::Pause(LOOK_AGAIN))
        );
    }
    assert_eq!(
        feed(&mut follow, vec![refused(404), refused(404)]).0,
        [Said::Missing(ROUTE)]
    );
    // A kind of the core is never missing.
    let mut follow = Follow::new(Kind::Service);
    assert_eq!(
        feed(&mut follow, vec![refused(404)]).0,
        [Said::Away(Kind::Service, "HTTP 404: why".to_owned())]
    );
    assert_eq!(follow.ask(), Ask::Stream("v1"));
}

#[test]
fn a_streamed_list_is_given_when_it_is_whole() {
    let mut follow = found();
    let heard = vec![
        Heard::Opened,
        put("b", "1"),
        put("a", "2"),
        put("b", "3"),
        put("c", "4"),
        Heard::Event(Event::Gone(key("c"), "5".into())),
        Heard::Event(Event::Bookmark("6".into())),
    ];
    assert_eq!(feed(&mut follow, heard), (vec![], Then::Listen));
    // Cut before the end: nothing of it counts.
    assert_eq!(
        feed(&mut follow, vec![Heard::Lost("cut".to_owned())]),
        (vec![Said::Away(ROUTE, "cut".to_owned())], PAUSE)
    );
    assert_eq!(follow.ask(), Ask::Stream("v1"));
    let heard = vec![
        Heard::Opened,
        put("a", "7"),
        Heard::Event(Event::AllSent("8".into())),
        put("b", "9"),
        Heard::Event(Event::Gone(key("b"), "10".into())),
        Heard::Event(Event::Bookmark("11".into())),
    ];
    assert_eq!(
        feed(&mut follow, heard).0,
        [
            Said::All(ROUTE, vec![read("a")]),
            Said::Back(ROUTE),
            Said::Put(read("b")),
            Said::Gone(key("b"))
        ]
    );
    assert_eq!(follow.ask(), Ask::Watch("v1", "11".into()));
}

#[test]
fn pages_where_streams_are_refused() {
    for status in [400, 422] {
        let mut follow = found();
        assert_eq!(feed(&mut follow, vec![refused(status)]), (vec![], Then::Ask));
        assert_eq!(follow.ask(), Ask::Page("v1", None));
        assert_eq!(
            feed(&mut follow, vec![page(&["a"], Some("t"))]),
            (vec![], Then::Ask)
        );
        assert_eq!(follow.ask(), Ask::Page("v1", Some("t".into())));
        // The token ran out: from the first page again.
        assert_eq!(feed(&mut follow, vec![refused(410)]), (vec![away(410)], PAUSE));
        assert_eq!(follow.ask(), Ask::Page("v1", None));
        let (said, then) = feed(&mut follow, vec![page(&["a"], Some("t")), page(&["b"], None)]);
        assert_eq!(
            said,
            [Said::All(ROUTE, vec![read("a"), read("b")]), Said::Back(ROUTE)]
        );
        assert_eq!((then, follow.ask()), (Then::Ask, Ask::Watch("v1", "5".into())));
        // What was learnt about streams stays learnt.
        feed(&mut follow, vec![refused(410)]);
        assert_eq!(follow.ask(), Ask::Page("v1", None));
    }
}

#[test]
fn a_watch_goes_on_where_it_ended_and_lists_anew_when_that_is_too_old() {
    let since = || Ask::Watch("v1", "3".into());
    for (heard, said, then, ask) in [
        (Heard::Ended(USEFUL), vec![], Then::Ask, since()),
        (Heard::Ended(Duration::ZERO), vec![], PAUSE, since()),
        (
            Heard::Lost("x".to_owned()),
            vec![Said::Away(ROUTE, "x".to_owned())],
            PAUSE,
            since(),
        ),
        (refused(503), vec![away(503)], PAUSE, since()),
        (refused(403), vec![away(403)], PAUSE, since()),
        (refused(410), vec![], Then::Ask, Ask::Stream("v1")),
        (
            Heard::Event(Event::Failed(410, String::new())),
            vec![],
            Then::Ask,
            Ask::Stream("v1"),
        ),
        (
            Heard::Event(Event::Failed(500, "why".to_owned())),
            vec![away(500)],
            PAUSE,
            since(),
        ),
    ] {
        let what = format!("{heard:?}");
        let mut follow = watching();
        assert_eq!(feed(&mut follow, vec![heard]), (said, then), "{what}");
        assert_eq!(follow.ask(), ask, "{what}");
    }
    let mut follow = watching();
    feed(&mut follow, vec![refused(503)]);
    assert_eq!(
        feed(&mut follow, vec![Heard::Opened]),
        (vec![Said::Back(ROUTE)], Then::Listen)
    );
}

#[test]
fn watches_that_end_at_once_wait_longer_and_longer() {
    let mut follow = watching();
    for milliseconds in [100, 200, 400, 800] {
        assert_eq!(
            feed(&mut follow, vec![Heard::Opened, Heard::Ended(Duration::ZERO)]).1,
            Then::Pause(Duration::from_millis(milliseconds))
        );
    }
    feed(&mut follow, vec![Heard::Ended(USEFUL)]);
    assert_eq!(feed(&mut follow, vec![Heard::Ended(Duration::ZERO)]).1, PAUSE);
}
