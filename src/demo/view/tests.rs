//! Tests of the view: plain data in, lines out.

use super::*;

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn row(name: &str, port: u16, pod: &'static str, standing: Standing) -> Row {
    Row {
        name: name.to_owned(),
        address: Some(address(port)),
        pod,
        standing,
        per_second: 0.0,
        share: 0.0,
        latency_us: None,
        in_flight: 0,
        failures: 0,
    }
}

fn frame() -> Frame {
    let ejected = Standing::Ejected(Duration::from_millis(6_200));
    let gone = Row {
        address: None,
        ..row("checkout-6", 0, "gone", Standing::Unlisted)
    };
    Frame {
        elapsed: Duration::from_secs(75),
        proxy: address(8080),
        admin: Some(address(9901)),
        folder: "/tmp/tidegate-demo-4711-beef".to_owned(),
        says: "checkout-5 is sick.",
        rows: vec![
            Row {
                per_second: 221.4,
                share: 0.75,
                latency_us: Some(3_120),
                in_flight: 2,
                ..row("checkout-1", 40_001, "healthy", Standing::InUse)
            },
            Row {
                per_second: 0.7,
                share: 0.002,
                latency_us: Some(143_120),
                ..row("checkout-4", 40_004, "slow", Standing::InUse)
            },
            Row {
                failures: 5,
                latency_us: Some(1_000),
                ..row("checkout-5", 40_005, "500s", ejected)
            },
            gone,
            row("checkout-v2", 40_007, "healthy", Standing::Draining),
        ],
        totals: Totals {
            requests: 22_500,
            failures: 0,
            per_second: 299.6,
            p50_us: Some(3_000),
            p99_us: Some(9_500),
            retries: 5,
            ejections: 1,
            changes: 3,
            slowest_change: Some(Duration::from_micros(9_400)),
            generation: 4,
        },
        events: vec![
            Event {
                at: Duration::from_secs(9),
                mood: Mood::Bad,
                text: "checkout-5 turns sick: it answers 500".to_owned(),
            },
            Event {
                at: Duration::from_secs(71),
                mood: Mood::Bad,
                text: "left out: HTTPRoute\n\x1b[2Jdefault/checkout: no".to_owned(),
            },
        ],
    }
}

fn shown(frame: &Frame, width: usize, height: usize) -> Vec<String> {
    let looks = Looks {
        width,
        height,
        unicode: false,
    };
    lines(frame, looks).iter().map(Line::plain).collect()
}

#[test]
fn a_small_terminal() {
    let expected = " tidegate demo: proxy, pods, client, Kubernetes objects; Ctrl-C ends it   1m15s
 proxy      http://127.0.0.1:8080   curl -i http://127.0.0.1:8080/
 dashboard  http://127.0.0.1:9901   open it in a browser
 manifests  /tmp/tidegate-demo-4711-beef   edit these files and watch

 checkout-5 is sick.

 POD         PORT   IT IS   PROXY SAYS  REQ/S      SHARE     LATENCY BUSY FAILED
 checkout-1  :40001 healthy in use        221  75% #########   3.1ms    2      0
 checkout-4  :40004 slow    in use        0.7   0%             143ms    0      0
 checkout-5  :40005 500s    ejected 7s      0   0%             1.0ms    0      5
 checkout-6  -      gone    unlisted
 checkout-v2 :40007 healthy draining        0   0%                 -    0      0

 client  300 req/s, 22500 requests, 0 failed; p50 3.0ms, p99 9.5ms
 proxy   retries 5, ejections 1, file changes 3, live in 9.4ms; snapshot 4

     9s  checkout-5 turns sick: it answers 500
  1m11s  left out: HTTPRoute  [2Jdefault/checkout: no";
    assert_eq!(shown(&frame(), 80, 24).join("\n"), expected);
}

#[test]
fn a_wide_terminal_shows_addresses() {
    let lines = shown(&frame(), 110, 30);
    assert_eq!(
        lines[7..9],
        [
            " POD         ADDRESS         IT IS   PROXY SAYS  REQ/S      SHARE                          LATENCY BUSY FAILED",
            " checkout-1  127.0.0.1:40001 healthy in use        221  75% ##############################   3.1ms    2      0",
        ]
    );
}

#[test]
fn no_terminal_is_too_small() {
    let mut frame = frame();
    for (width, height) in [(80, 24), (100, 30), (200, 60), (40, 10), (1, 1), (0, 0)] {
        for admin in [None, Some(address(9901))] {
            frame.admin = admin;
            let lines = shown(&frame, width, height);
            assert!(lines.len() <= height.saturating_sub(1), "{width}x{height}");
            assert!(
                lines.iter().all(|line| line.chars().count() <= width),
                "{width}x{height}"
            );
        }
    }
}

#[test]
fn only_the_newest_events_are_shown_when_there_is_no_room() {
    let mut frame = frame();
    frame.events = (0..50)
        .map(|number| Event {
            at: Duration::from_secs(number),
            mood: Mood::Plain,
            text: format!("event {number}"),
        })
        .collect();
    let lines = shown(&frame, 80, 24);
    assert!(lines.iter().any(|line| line.ends_with("event 49")));
    assert!(!lines.iter().any(|line| line.ends_with("event 30")));
    assert_eq!(lines.len(), 23);
}

#[test]
fn bars_are_as_long_as_shares() {
    for (share, expected) in [
        (0.0, "    "),
        (0.05, "    "),
        (0.1, "#   "),
        (0.25, "##  "),
        (0.5, "####"),
        (1.0, "####"),
        (f64::NAN, "    "),
        (7.0, "####"),
    ] {
        assert_eq!(bar(share, 4, false), expected, "{share}");
    }
    assert_eq!(bar(0.25, 4, true), "██  ");
}

#[test]
fn a_pipe_gets_a_line() {
    assert_eq!(
        one_line(&frame()),
        "1m15s  300 req/s  failed 0  p50 3.0ms  p99 9.5ms  retries 5  ejections 1  checkout-1 75% checkout-4 0% \
         checkout-5 0% (ejected 7s) checkout-v2 0% (draining)"
    );
    assert_eq!(
        event_text(&frame().events[1]),
        "1m11s left out: HTTPRoute  [2Jdefault/checkout: no"
    );
}
