//! Following the Secrets of a store: a list by pages, then a watch from its version on, and a list again when that is too old.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::Inner;
use super::shape::Record;
use crate::kubernetes::cluster::backoff::Backoff;
use crate::kubernetes::cluster::events::{self, ListMeta, RawEvent, RawPage};
use crate::kubernetes::cluster::requests;
use crate::kubernetes::cluster::wire::{self, Lines, Trouble};

/// Secrets asked for per page.
const PAGE: u32 = 250;
/// A watch that ends sooner was of no use, and the next waits.
const USEFUL: Duration = Duration::from_secs(5);
/// The version is not known any more.
const TOO_OLD: u16 = 410;

/// What to ask next.
enum Next {
    List,
    Watch(String),
}

/// A bookmark.
#[derive(Deserialize)]
struct Bookmark {
    metadata: ListMeta,
}

/// Follows them for the life of the store.
pub async fn follow(inner: Arc<Inner>) {
    let mut backoff = Backoff::default();
    let mut next = Next::List;
    loop {
        let begun = Instant::now();
        let trouble = match &mut next {
            Next::List => match list(&inner).await {
                Ok(version) => {
                    backoff.succeeded();
                    next = Next::Watch(version);
                    continue;
                }
                Err(trouble) => Some(trouble),
            },
            Next::Watch(since) => watch(&inner, since).await.err(),
        };
        match trouble {
            None if begun.elapsed() >= USEFUL => {
                backoff.succeeded();
                continue;
            }
            None => {}
            Some(Trouble::Refused(TOO_OLD, _)) => next = Next::List,
            Some(Trouble::Refused(status, why)) => inner.away(format!("HTTP {status}: {why}")),
            Some(Trouble::Lost(why)) => inner.away(why),
        }
        tokio::time::sleep(backoff.failed(fastrand::f64())).await;
    }
}

/// Reads all that there is now; the version to go on from.
pub async fn list(inner: &Inner) -> Result<String, Trouble> {
    let mut records = Vec::new();
    let mut token = None::<Box<str>>;
    loop {
        let mut path = format!("{}?limit={PAGE}&{}", inner.collection(), inner.shape.selector());
        if let Some(token) = token {
            path.push_str("&continue=");
            requests::escape(&token, &mut path);
        }
        let text = wire::whole(wire::open(&inner.client, &path, "application/json").await?).await?;
        let page: RawPage<'_> = serde_json::from_str(&text).map_err(|error| Trouble::nonsense(&error))?;
        for item in page.items.iter().flatten() {
            records.push(Record::read(item.get()).map_err(|error| Trouble::nonsense(&error))?);
        }
        token = page.metadata.r#continue.filter(|token| !token.is_empty());
        if token.is_none() {
            let version = String::from(page.metadata.resource_version);
            inner.tell(|mirror| {
                mirror.all(records, &version);
                mirror.trouble = None;
            });
            return Ok(version);
        }
    }
}

/// Hears what becomes of them, until it is over.
async fn watch(inner: &Inner, since: &mut String) -> Result<(), Trouble> {
    let mut path = format!(
        "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}&{}&resourceVersion=",
        inner.collection(),
        requests::WATCH_SECONDS,
        inner.shape.selector()
    );
    requests::escape(since, &mut path);
    let mut lines = Lines::new(wire::open(&inner.client, &path, "application/json").await?);
    inner.tell(|mirror| mirror.trouble = None);
    while let Some(line) = lines.next().await? {
        let event: RawEvent<'_> =
            serde_json::from_str(wire::text(&line)?).map_err(|error| Trouble::nonsense(&error))?;
        let object = event.object.get();
        match event.r#type {
            "ADDED" | "MODIFIED" => {
                let record = Record::read(object).map_err(|error| Trouble::nonsense(&error))?;
                since.clone_from(&record.version);
                inner.tell(|mirror| mirror.put(record));
            }
            "DELETED" => {
                let record = Record::read(object).map_err(|error| Trouble::nonsense(&error))?;
                since.clone_from(&record.version);
                inner.tell(|mirror| mirror.gone(&record.name, Some(&record.version)));
            }
            "BOOKMARK" => {
                let mark: Bookmark =
                    serde_json::from_str(object).map_err(|error| Trouble::nonsense(&error))?;
                *since = mark.metadata.resource_version.into();
            }
            "ERROR" => {
                let (status, why) = events::refusal(object);
                return Err(Trouble::Refused(status, why));
            }
            _ => {}
        }
    }
    Ok(())
}
