//! Messages as another implementation writes them, and whatever else may come.

use proptest::prelude::*;
use prost::Message as _;

use super::*;

#[derive(Clone, PartialEq, prost::Message)]
struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    crl: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: std::collections::HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

/// The same with fields of a later version among it.
#[derive(Clone, PartialEq, prost::Message)]
struct Later {
    #[prost(fixed64, tag = "9")]
    long: u64,
    #[prost(fixed32, tag = "10")]
    short: u32,
    #[prost(uint64, tag = "11")]
    number: u64,
}

prop_compose! {
    fn a_svid()(id in "[a-z/:.]{0,40}", parts in prop::array::uniform3(prop::collection::vec(any::<u8>(), 0..300)), hint in ".{0,5}") -> X509Svid {
        let [x509_svid, x509_svid_key, bundle] = parts;
        X509Svid { spiffe_id: id, x509_svid, x509_svid_key, bundle, hint }
    }
}

proptest! {
    #[test]
    fn what_others_write_is_read(
        svids in prop::collection::vec(a_svid(), 0..4),
        crl in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..3),
        federated_bundles in prop::collection::hash_map("[a-z]{1,9}", prop::collection::vec(any::<u8>(), 0..50), 0..3),
        later in any::<(u64, u32, u64)>(),
    ) {
        let first = svids.first().cloned();
        let mut bytes = X509SvidResponse { svids, crl, federated_bundles }.encode_to_vec();
        bytes.extend(Later { long: later.0, short: later.1, number: later.2 }.encode_to_vec());
        let expected = first.as_ref().map(|first| Svid {
            id: &first.spiffe_id,
            chain: &first.x509_svid,
            key: &first.x509_svid_key,
            bundle: &first.bundle,
        });
        let is_whole = |svid: &Svid<'_>| {
            !(svid.id.is_empty() || svid.chain.is_empty() || svid.key.is_empty() || svid.bundle.is_empty())
        };
        match default_svid(&bytes) {
            Ok(svid) => prop_assert_eq!(Some(svid), expected),
            Err(MessageError::Missing(_)) => prop_assert!(!expected.as_ref().is_some_and(is_whole)),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn nothing_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..400), svid in a_svid(), cut in any::<prop::sample::Index>()) {
        let _ = default_svid(&bytes);
        // What is cut off is told, or the cut is between two fields.
        let whole = X509SvidResponse { svids: vec![svid], ..X509SvidResponse::default() }.encode_to_vec();
        let cut = cut.index(whole.len());
        prop_assert!(default_svid(&whole[..cut]).is_err());
    }

    #[test]
    fn messages_do_not_depend_on_the_pieces(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
        size in 1_usize..64,
    ) {
        let stream: Vec<u8> = messages
            .iter()
            .flat_map(|message| {
                let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                [&[0][..], &length, message].concat()
            })
            .collect();
        let mut reader = Messages::default();
        let mut found = Vec::new();
        for piece in stream.chunks(size) {
            reader.push(piece);
            while let Some(message) = reader.next().unwrap() {
                found.push(message.to_vec());
            }
        }
        prop_assert_eq!(found, messages);
    }
}

#[test]
fn what_cannot_be_is_refused_for_its_reason() {
    for (bytes, error) in [
        (&b""[..], MessageError::Missing("identity")),
        (b"\x0a\x00", MessageError::Missing("name")),
        (b"\x0a\x05\x0a\x01", MessageError::Cut),
        (b"\x0a\x03\x0a\x01\xff", MessageError::NotUtf8),
        (b"\x0b", MessageError::NotProtobuf),
        (b"\x02\x00", MessageError::NotProtobuf),
        (
            b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
            MessageError::NotProtobuf,
        ),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", MessageError::Cut),
    ] {
        assert_eq!(default_svid(bytes), Err(error), "{bytes:02x?}");
    }
    for (bytes, error) in [
        (&[1, 0, 0, 0, 0][..], MessageError::Compressed),
        (&[0, 0xff, 0xff, 0xff, 0xff], MessageError::TooLong),
    ] {
        let mut messages = Messages::default();
        messages.push(bytes);
        assert_eq!(messages.next(), Err(error));
    }
}
