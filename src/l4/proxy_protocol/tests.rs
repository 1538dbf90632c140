//! The form of PROXY headers: the examples of its text, everything that breaks it, and properties.

use proptest::prelude::*;

use super::*;

/// Reads bytes as a socket would give them, in pieces of at most `piece`; gives the header and what was left alone.
fn read(bytes: &[u8], piece: usize) -> Result<Option<(Header, usize)>, HeaderError> {
    let mut reader = Reader::default();
    let mut at = 0;
    loop {
        let left = &bytes[at..];
        let take = match reader.wants()? {
            Want::Nothing(header) => return Ok(Some((header, at))),
            Want::Bytes(most) => most.min(piece).min(left.len()),
            Want::Line(most) => {
                let seen = &left[..left.len().min(most).min(piece)];
                memchr::memchr(b'\n', seen).map_or(seen.len(), |end| end + 1)
            }
        };
        if take == 0 {
            return Ok(None);
        }
        reader.take(&left[..take]);
        at += take;
    }
}

fn whole(bytes: &[u8]) -> Result<Header, HeaderError> {
    for piece in [1, 5, usize::MAX] {
        let read = read(bytes, piece);
        if piece == usize::MAX {
            return read.map(|found| found.expect("it is whole").0);
        }
    }
    unreachable!()
}

fn addresses(client: &str, server: &str) -> Option<(SocketAddr, SocketAddr)> {
    Some((client.parse().unwrap(), server.parse().unwrap()))
}

/// Version 2 with this command, family and body.
fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    out.extend([command, family]);
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    out
}

const V4: [u8; 12] = [10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0, 80];

#[test]
fn lines_are_read_as_the_text_has_them() {
    for (line, expected) in [
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            addresses("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        (
            "PROXY TCP4 192.0.2.1 192.0.2.2 4711 0\r\n",
            addresses("192.0.2.1:4711", "192.0.2.2:0"),
        ),
        (
            "PROXY TCP6 2001:db8::1 ::1 1 2\r\n",
            addresses("[2001:db8::1]:1", "[::1]:2"),
        ),
        ("PROXY UNKNOWN\r\n", None),
        (
            "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            None,
        ),
    ] {
        assert_eq!(
            whole(line.as_bytes()).map(|header| header.addresses),
            Ok(expected),
            "{line}"
        );
    }
}

#[test]
fn lines_that_break_the_form_are_refused() {
    for line in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4711\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4711 80 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4711 80 1\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 4711 80\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 4711 80\r\n",
        "PROXY TCP4 ::1 ::1 4711 80\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 4711 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 04711 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +4711 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4711 \r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.2 4711 80\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 4711 80\r\n",
        "PROXY TCP4\t192.0.2.1 192.0.2.2 4711 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\r\r\n",
    ] {
        assert!(
            matches!(read(line.as_bytes(), 1), Err(HeaderError::Malformed(_))),
            "{line:?}: {:?}",
            read(line.as_bytes(), 1)
        );
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE));
    assert_eq!(read(long.as_bytes(), 7), Err(HeaderError::TooLong));
    let just = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE - 16));
    assert_eq!(
        (just.len(), whole(just.as_bytes())),
        (MAX_LINE, Ok(Header::default()))
    );
    for text in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PROXYTCP4",
        b"proxy TCP4 ",
        b"\r\n\r\n\0\r\nQUIX",
        b"\0",
    ] {
        assert_eq!(read(text, 1), Err(HeaderError::Missing));
    }
}

#[test]
fn bytes_are_read_as_the_text_has_them() {
    let mut six = [0; 36];
    six[15] = 1;
    six[31] = 2;
    six[32..].copy_from_slice(&[0, 7, 0, 8]);
    let mut unix = [0; 216];
    unix[..5].copy_from_slice(b"/sock");
    for (bytes, expected) in [
        (binary(0x21, 0x11, &V4), addresses("10.0.0.1:4660", "10.0.0.2:80")),
        (binary(0x21, 0x21, &six), addresses("[::1]:7", "[::2]:8")),
        (binary(0x21, 0x31, &unix), None),
        (binary(0x21, 0x00, b"whatever"), None),
        (binary(0x20, 0x00, b""), None),
        (binary(0x20, 0x11, &V4), None),
        (binary(0x20, 0xFF, b"\xFF"), None),
    ] {
        assert_eq!(
            whole(&bytes).map(|header| header.addresses),
            Ok(expected),
            "{bytes:?}"
        );
    }
}

#[test]
fn bytes_that_break_the_form_are_refused() {
    let with = |more: &[u8]| binary(0x21, 0x11, &[&V4, more].concat());
    for bytes in [
        binary(0x11, 0x11, &V4),
        binary(0x22, 0x11, &V4),
        binary(0x21, 0x12, &V4),
        binary(0x21, 0x10, &V4),
        binary(0x21, 0x41, &V4),
        binary(0x21, 0x11, &V4[..11]),
        binary(0x21, 0x21, &V4),
        binary(0x21, 0x31, &V4),
        with(&[0]),
        with(&[0, 0]),
        with(&[0x02, 0, 5, b'a']),
        with(&[0xE0, 0xFF, 0xFF]),
        with(&[0x01, 0, 0]),
        with(&[0x02, 0, 1, 0xFF]),
        with(&[0x03, 0, 3, 1, 2, 3]),
        with(&[&[0x05, 0, 129][..], &[7; 129]].concat()),
        with(&[0x02, 0, 1, b'a', 0x02, 0, 1, b'b']),
    ] {
        assert!(
            matches!(read(&bytes, 3), Err(HeaderError::Malformed(_))),
            "{bytes:?}"
        );
    }
    assert_eq!(
        read(&with(&[0x03, 0, 4, 1, 2, 3, 4]), 9),
        Err(HeaderError::Checksum)
    );
    let mut huge = binary(0x21, 0x11, &V4);
    huge[14..16].copy_from_slice(&((MAX_HEADER - 15) as u16).to_be_bytes());
    assert_eq!(read(&huge, usize::MAX), Err(HeaderError::TooLong));
}

#[test]
fn what_else_is_said_is_read_and_a_checksum_is_checked() {
    // RFC 3720 appendix B.4: 32 bytes of zeros.
    assert_eq!(crc32c([0; 32].into_iter()), 0x8A91_36AA);
    let more = [
        &[0x01, 0, 2][..],
        b"h2",
        &[0x02, 0, 9],
        b"A.example",
        &[0x04, 0, 2, 0, 0],
        &[0x05, 0, 3, 1, 2, 3],
        &[0x20, 0, 5, 1, 0, 0, 0, 0],
        &[0xEA, 0, 1, 9],
        &[0x03, 0, 4, 0, 0, 0, 0],
    ]
    .concat();
    let mut bytes = binary(0x21, 0x11, &[&V4[..], &more].concat());
    let crc = crc32c(bytes.iter().copied());
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&crc.to_be_bytes());
    let header = whole(&bytes).unwrap();
    assert_eq!(header.alpn.as_deref(), Some(&b"h2"[..]));
    assert_eq!(header.authority.as_deref(), Some("a.example"));
    assert_eq!(header.unique_id.as_deref(), Some(&[1, 2, 3][..]));
    bytes[17] ^= 1;
    assert_eq!(whole(&bytes), Err(HeaderError::Checksum));
}

#[test]
fn a_header_is_written_in_one_family() {
    let header = |client: &str, server: &str| Header {
        addresses: addresses(client, server),
        ..Header::default()
    };
    for (client, server, line) in [
        ("10.0.0.1:1", "10.0.0.2:2", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"),
        (
            "[::ffff:10.0.0.1]:1",
            "[::ffff:10.0.0.2]:2",
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
        ),
        (
            "10.0.0.1:1",
            "[2001:db8::2]:2",
            "PROXY TCP6 ::ffff:10.0.0.1 2001:db8::2 1 2\r\n",
        ),
    ] {
        assert_eq!(write(Version::V1, &header(client, server)), line.as_bytes());
        let binary = whole(&write(Version::V2, &header(client, server))).unwrap();
        assert_eq!(binary.addresses, whole(line.as_bytes()).unwrap().addresses);
    }
    assert_eq!(write(Version::V1, &Header::default()), b"PROXY UNKNOWN\r\n");
    assert_eq!(write(Version::V2, &Header::default()), binary(0x20, 0, b""));
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<[u8; 16]>(), any::<u16>()).prop_map(SocketAddr::from),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_nothing_beyond(
        client in any_address(),
        server in any_address(),
        authority in proptest::option::of("[a-z0-9.-]{1,255}"),
        alpn in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=255)),
        unique_id in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=128)),
        piece in 1_usize..200,
        follows in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let header = Header {
            addresses: Some((client, server)),
            authority: authority.map(Into::into),
            alpn: alpn.map(Into::into),
            unique_id: unique_id.map(Into::into),
        };
        for version in [Version::V1, Version::V2] {
            let mut bytes = write(version, &header);
            let length = bytes.len();
            prop_assert!(length <= MAX_HEADER);
            bytes.extend(&follows);
            let (read, at) = read(&bytes, piece).unwrap().unwrap();
            prop_assert_eq!(at, length);
            let (one, other) = read.addresses.unwrap();
            prop_assert_eq!((one.port(), other.port()), (client.port(), server.port()));
            prop_assert_eq!(
                (one.ip().to_canonical(), other.ip().to_canonical()),
                (client.ip().to_canonical(), server.ip().to_canonical())
            );
            if version == Version::V2 {
                prop_assert_eq!(read.authority, header.authority.clone());
                prop_assert_eq!(read.alpn, header.alpn.clone());
                prop_assert_eq!(read.unique_id, header.unique_id.clone());
            }
        }
    }

    #[test]
    fn no_bytes_make_it_read_beyond_its_bound(
        start in prop_oneof![Just(&b""[..]), Just(&b"PROXY "[..]), Just(&SIGNATURE[..])],
        bytes in proptest::collection::vec(any::<u8>(), 0..6000),
        piece in 1_usize..5000,
    ) {
        let all = [start, &bytes].concat();
        if let Ok(Some((_, at))) = read(&all, piece) {
            prop_assert!(at <= MAX_HEADER);
        }
    }

    #[test]
    fn the_size_of_the_pieces_changes_nothing(
        command in 0x20_u8..0x23,
        family in prop_oneof![Just(0x11_u8), Just(0x21), any::<u8>()],
        body in proptest::collection::vec(any::<u8>(), 0..300),
        piece in 1_usize..40,
    ) {
        let bytes = binary(command, family, &body);
        prop_assert_eq!(read(&bytes, piece), read(&bytes, usize::MAX));
    }
}
