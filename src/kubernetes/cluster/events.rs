//! What the API server says, as objects of ours: lines of a watch, pages of a list, the resources of a group.
//!
//! An object that cannot be read does not end the stream that it came in: it is given by its name, with what is wrong.

mod place;

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::kubernetes::index::Complaint;
use crate::kubernetes::objects::{Id, Key, Kind, Object};

/// The annotation of the bookmark after which a streamed list is whole.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// An object that is there, be it readable or not.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    /// It is good.
    Good(Object),
    /// It is there, but cannot be read; where not, and why.
    Broken(Key, Complaint),
}

impl Read {
    /// Which object it is.
    pub fn key(&self) -> Key {
        match self {
            Self::Good(object) => object.key(),
            Self::Broken(key, _) => key.clone(),
        }
    }
}

/// A line of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Added or changed, as of a version.
    Put(Read, Version),
    /// Deleted, as of a version.
    Gone(Key, Version),
    /// Nothing happened up to a version.
    Bookmark(Version),
    /// The same, and all objects that there are have been sent.
    AllSent(Version),
    /// The API server gives up, with an HTTP status.
    Failed(u16, String),
}

/// A version of the cluster; opaque.
pub type Version = Box<str>;

/// A page of a list.
#[derive(Debug, PartialEq)]
pub struct Page {
    /// Its objects.
    pub objects: Vec<Read>,
    /// The version that a watch goes on from.
    pub version: Version,
    /// What asks for the next page, if there is one.
    pub next: Option<Box<str>>,
}

/// A line of a watch, its object unread.
#[derive(Deserialize)]
pub struct RawEvent<'line> {
    /// `ADDED` and so on.
    pub r#type: &'line str,
    /// The object, or what the API server has to say.
    #[serde(borrow)]
    pub object: &'line RawValue,
}

/// A page of a list, its objects unread.
#[derive(Deserialize)]
pub struct RawPage<'text> {
    /// Of the list.
    pub metadata: ListMeta,
    /// The objects.
    #[serde(borrow, default)]
    pub items: Option<Vec<&'text RawValue>>,
}

/// How a list or a watch goes on.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    /// The version of the whole.
    #[serde(default)]
    pub resource_version: Box<str>,
    /// What asks for the next page; none or empty: this is the last.
    #[serde(default)]
    pub r#continue: Option<Box<str>>,
}

/// Of an object, what is needed to name it and to go on after it.
#[derive(Deserialize)]
struct Stub {
    metadata: StubMeta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StubMeta {
    name: Arc<str>,
    namespace: Arc<str>,
    resource_version: Box<str>,
    annotations: Option<std::collections::BTreeMap<Box<str>, Box<str>>>,
}

#[derive(Deserialize)]
struct RawStatus {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct RawResources {
    #[serde(default)]
    resources: Vec<RawResource>,
}

#[derive(Deserialize)]
struct RawResource {
    name: Box<str>,
}

/// Reads a line of a watch. An error is one of the stream: nothing can be said of what was meant.
pub fn event(kind: Kind, line: &str) -> Result<Event, serde_json::Error> {
    let raw: RawEvent<'_> = serde_json::from_str(line)?;
    let text = raw.object.get();
    if raw.r#type == "ERROR" {
        let status: RawStatus = serde_json::from_str(text)?;
        return Ok(Event::Failed(status.code, status.message));
    }
    let stub: Stub = serde_json::from_str(text)?;
    let version = stub.metadata.resource_version.clone();
    Ok(match raw.r#type {
        "DELETED" => Event::Gone(key(kind, &stub), version),
        "BOOKMARK" => {
            let annotations = stub.metadata.annotations.unwrap_or_default();
            match annotations.get(INITIAL_EVENTS_END).map(|value| &**value) {
                Some("true") => Event::AllSent(version),
                _ => Event::Bookmark(version),
            }
        }
        "ADDED" | "MODIFIED" => Event::Put(object(kind, text, || Ok(key(kind, &stub)))?, version),
        _ => Event::Bookmark(version), // of a later API: it is known up to there, at least
    })
}

/// Reads a page of a list.
pub fn page(kind: Kind, text: &str) -> Result<Page, serde_json::Error> {
    let raw: RawPage<'_> = serde_json::from_str(text)?;
    let objects = raw
        .items
        .unwrap_or_default()
        .into_iter()
        .map(|item| {
            let text = item.get();
            object(kind, text, || Ok(key(kind, &serde_json::from_str(text)?)))
        })
        .collect::<Result<_, _>>()?;
    Ok(Page {
        objects,
        version: raw.metadata.resource_version,
        next: raw.metadata.r#continue.filter(|token| !token.is_empty()),
    })
}

/// The text of the object in a line of a watch that was read before.
pub fn text_of_event(line: &str) -> Option<&str> {
    let raw: RawEvent<'_> = serde_json::from_str(line).ok()?;
    Some(raw.object.get())
}

/// The texts of the objects of a page that was read before, in its order.
pub fn texts_of_page(text: &str) -> Vec<&str> {
    let raw: Result<RawPage<'_>, _> = serde_json::from_str(text);
    let items = raw.ok().and_then(|raw| raw.items).unwrap_or_default();
    items.into_iter().map(RawValue::get).collect()
}

/// Whether a resource is among those of a group's version.
pub fn has_resource(text: &str, plural: &str) -> Result<bool, serde_json::Error> {
    let raw: RawResources = serde_json::from_str(text)?;
    Ok(raw.resources.iter().any(|resource| &*resource.name == plural))
}

/// What an answer that refuses says, be it a `Status` or any text.
pub fn message(text: &[u8]) -> String {
    match serde_json::from_slice::<RawStatus>(text) {
        Ok(status) if !status.message.is_empty() => status.message,
        _ => String::from_utf8_lossy(text).trim().to_owned(),
    }
}

/// What the API server gives up with, in the object of a watch's last line.
pub fn refusal(text: &str) -> (u16, String) {
    let status: Result<RawStatus, _> = serde_json::from_str(text);
    status.map_or_else(
        |_| (0, "for no reason".to_owned()),
        |status| (status.code, status.message),
    )
}

fn object(
    kind: Kind,
    text: &str,
    key: impl FnOnce() -> Result<Key, serde_json::Error>,
) -> Result<Read, serde_json::Error> {
    let mut input = serde_json::Deserializer::from_str(text);
    match Object::decode(kind, &mut input) {
        Ok(object) => Ok(Read::Good(object)),
        Err(error) => {
            let (field, reason) = place::of_error(text, &error);
            Ok(Read::Broken(key()?, Complaint::new(field, reason)))
        }
    }
}

fn key(kind: Kind, stub: &Stub) -> Key {
    Key {
        kind,
        id: Id::new(
            Arc::clone(&stub.metadata.namespace),
            Arc::clone(&stub.metadata.name),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = r#"{"kind":"Service","metadata":{"name":"a","namespace":"n","resourceVersion":"7","managedFields":[{"x":1}]},"spec":{"ports":[{"port":80}]}}"#;

    fn line(kind: &str, object: &str) -> String {
        format!(r#"{{"type":"{kind}","object":{object}}}"#)
    }

    fn service_key() -> Key {
        Key {
            kind: Kind::Service,
            id: Id::new("n", "a"),
        }
    }

    #[test]
    fn lines_of_a_watch() {
        for kind in ["ADDED", "MODIFIED"] {
            match event(Kind::Service, &line(kind, SERVICE)).unwrap() {
                Event::Put(Read::Good(object), version) => {
                    assert_eq!((object.key(), &*version), (service_key(), "7"));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            event(Kind::Service, &line("DELETED", SERVICE)).unwrap(),
            Event::Gone(service_key(), "7".into())
        );
        for (object, expected) in [
            (
                r#"{"metadata":{"resourceVersion":"8"}}"#,
                Event::Bookmark("8".into()),
            ),
            (
                r#"{"metadata":{"resourceVersion":"8","annotations":null}}"#,
                Event::Bookmark("8".into()),
            ),
            (
                r#"{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}"#,
                Event::AllSent("9".into()),
            ),
        ] {
            assert_eq!(event(Kind::Service, &line("BOOKMARK", object)).unwrap(), expected);
        }
        assert_eq!(
            event(
                Kind::Service,
                &line("ERROR", r#"{"kind":"Status","code":410,"message":"too old"}"#)
            )
            .unwrap(),
            Event::Failed(410, "too old".to_owned())
        );
        for bad in [
            "",
            "{",
            "[]",
            r#"{"type":"ADDED"}"#,
            r#"{"type":"ADDED","object":3}"#,
        ] {
            assert!(event(Kind::Service, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_object_that_cannot_be_read_is_named() {
        let bad = SERVICE.replace("80", "0");
        match event(Kind::Service, &line("ADDED", &bad)).unwrap() {
            Event::Put(Read::Broken(key, why), version) => {
                assert_eq!((key, &*version), (service_key(), "7"));
                assert!(why.reason.contains("0 is no port"), "{why:?}");
            }
            other => panic!("{other:?}"),
        }
        let text = format!(
            r#"{{"kind":"ServiceList","metadata":{{"resourceVersion":"9","continue":"t"}},"items":[{bad},{SERVICE}]}}"#
        );
        let page = page(Kind::Service, &text).unwrap();
        assert_eq!((&*page.version, page.next.as_deref()), ("9", Some("t")));
        assert!(matches!(&page.objects[..], [Read::Broken(..), Read::Good(_)]));
    }

    #[test]
    fn a_list_may_be_empty() {
        for text in [
            r#"{"metadata":{"resourceVersion":"1"},"items":[]}"#,
            r#"{"metadata":{"resourceVersion":"1","continue":""},"items":null}"#,
        ] {
            let page = page(Kind::Gateway, text).unwrap();
            assert_eq!((page.objects.len(), page.next), (0, None), "{text}");
        }
    }

    #[test]
    fn messages() {
        for (text, expected) in [
            (r#"{"kind":"Status","code":403,"message":"no"}"#, "no"),
            (" Not found\n", "Not found"),
            ("{}", "{}"),
        ] {
            assert_eq!(message(text.as_bytes()), expected);
        }
    }

    #[test]
    fn resources_of_a_group() {
        let text = r#"{"kind":"APIResourceList","resources":[{"name":"gateways","kind":"Gateway"},{"name":"gateways/status"}]}"#;
        assert!(has_resource(text, "gateways").unwrap());
        assert!(!has_resource(text, "httproutes").unwrap());
        assert!(has_resource("no", "httproutes").is_err());
    }
}
