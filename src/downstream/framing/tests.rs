//! Framing of requests, piece by piece: what is let through and what is refused.

use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 512,
    fields: 5,
};

fn first(bytes: &[u8]) -> Passage {
    Framing::new(LIMITS).advance(bytes)
}

#[test]
fn whole_requests_pass() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked \r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n00\r\nx-t: 1\r\ny: 2\r\n\r\n",
        "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
    ] {
        let mut framing = Framing::new(LIMITS);
        assert_eq!(
            framing.advance(request.as_bytes()),
            Passage::Pass(request.len()),
            "{request:?}"
        );
        assert!(framing.at_head(), "{request:?}");
    }
}

#[test]
fn ambiguous_heads_are_refused_and_what_stands_before_them_passes() {
    use Refusal::*;
    for (head, refusal) in [
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Malformed,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            Malformed,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            Malformed,
        ),
        ("POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", Malformed),
        ("POST / HTTP/1.1\r\nContent-Length: 05\r\n\r\n", Malformed),
        ("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", Malformed),
        ("POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", Malformed),
        (
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            Malformed,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            UnsupportedCoding,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
            UnsupportedCoding,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Malformed,
        ),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\nHost: a\n\n", Malformed),
        ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", Malformed),
        ("GET /#a HTTP/1.1\r\n\r\n", Malformed),
        ("GET / HTTP/1.2\r\n\r\n", Malformed),
        ("GET /\r\n\r\n", Malformed),
        ("TIDEGATE-REFUSED /0 HTTP/1.1\r\n\r\n", Malformed),
        ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", Malformed),
        (
            "GET / HTTP/1.1\r\na: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\ne: 1\r\nf: 1\r\n\r\n",
            TooLarge,
        ),
    ] {
        assert_eq!(first(head.as_bytes()), Passage::Refuse(0, refusal), "{head:?}");
        let good = "GET / HTTP/1.1\r\n\r\n";
        let both = format!("{good}{head}");
        assert_eq!(
            first(both.as_bytes()),
            Passage::Refuse(good.len(), refusal),
            "{both:?}"
        );
    }
    assert_eq!(first(&[b'a'; 513]), Passage::Refuse(0, TargetTooLong));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(600));
    assert_eq!(first(long.as_bytes()), Passage::Refuse(0, TargetTooLong));
    let long = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(600));
    assert_eq!(first(long.as_bytes()), Passage::Refuse(0, TooLarge));
}

#[test]
fn broken_chunks_end_it() {
    for body in [
        "\r\n",
        "x\r\n",
        "3 \r\nabc\r\n",
        "3\nabc\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc\n",
        "3;\r\nabc",
        "3;a=\"b\"\r\n",
        "3;a\n",
        "-1\r\n",
        "0x3\r\n",
        "1000000000000000\r\n",
        "0\r\na: b\n\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let head = request.len() - body.len();
        let mut framing = Framing::new(LIMITS);
        assert_eq!(framing.advance(&request.as_bytes()[..head]), Passage::Pass(head));
        assert_eq!(framing.advance(body.as_bytes()), Passage::Broken, "{body:?}");
        let good = "GET / HTTP/1.1\r\n\r\n";
        assert_eq!(
            first(format!("{good}{request}").as_bytes()),
            Passage::Refuse(good.len(), Refusal::Malformed),
            "{body:?}"
        );
    }
}

#[test]
fn a_split_head_passes_only_when_whole() {
    let request = b"POST /long/path HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let head = request.len() - 3;
    for split in 1..head {
        let mut framing = Framing::new(LIMITS);
        assert_eq!(
            framing.advance(&request[..split]),
            Passage::Pass(0),
            "split at {split}"
        );
        assert_eq!(
            framing.advance(request),
            Passage::Pass(request.len()),
            "split at {split}"
        );
    }
}

proptest! {
    /// However the bytes are cut, the same messages pass whole and the end is the same.
    #[test]
    fn cuts_do_not_matter(
        parts in proptest::collection::vec(prop_oneof![
            Just("GET /a HTTP/1.1\r\nHost: a\r\n\r\n"),
            Just("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd"),
            Just("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nt: u\r\n\r\n"),
            Just("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello"),
            Just("GET / HTTP/1.1\nHost: b\n\n"),
            Just("\r\n"),
        ], 1..6),
        cuts in proptest::collection::vec(0_usize..400, 0..12),
    ) {
        let bytes = parts.concat().into_bytes();
        let messages = |(passed, end): (usize, _)| {
            let mut at = 0;
            let whole = parts.iter().filter(|part| {
                at += part.len();
                at <= passed && **part != "\r\n"
            });
            (whole.count(), end)
        };
        prop_assert_eq!(messages(run(&bytes, &cuts)), messages(run(&bytes, &[])));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = first(&bytes);
    }
}

/// Feeds the bytes in pieces; gives what passed in all and why no more did.
fn run(bytes: &[u8], cuts: &[usize]) -> (usize, Option<Refusal>) {
    let mut framing = Framing::new(LIMITS);
    let mut ends: Vec<_> = cuts
        .iter()
        .map(|cut| *cut % (bytes.len() + 1))
        .chain([bytes.len()])
        .collect();
    ends.sort_unstable();
    let mut passed = 0;
    for end in ends {
        match framing.advance(&bytes[passed..end]) {
            Passage::Pass(length) => passed += length,
            Passage::Refuse(length, refusal) => return (passed + length, Some(refusal)),
            // Where the bytes are cut decides whether the head had passed.
            Passage::Broken => return (passed, Some(Refusal::Malformed)),
        }
    }
    (passed, None)
}
