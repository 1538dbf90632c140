//! Asking the API server about one kind, for the life of the process. What is asked is decided in [`follow`](super::follow).

use std::collections::BTreeSet;

use kube::Client;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::events::{self, Event, Read};
use super::follow::{Ask, Follow, Heard, Said, Then};
use super::hub::Told;
use super::keep::Keeper;
use super::requests;
use super::wire::{self, Lines, Trouble};
use crate::kubernetes::Kind;

/// Follows a kind until nobody listens.
pub async fn follow(client: Client, kind: Kind, to: mpsc::Sender<Told>, keeper: Keeper) {
    let mut teller = Teller {
        follow: Follow::new(kind),
        to,
        keeper: keeper.clone(),
        then: Then::Ask,
    };
    loop {
        let heard = match teller.follow.ask() {
            Ask::Resources(version) => {
                whole(&client, kind, &requests::resources(kind, version), |text| {
                    events::has_resource(text, requests::plural(kind)).map(Heard::Resource)
                })
                .await
            }
            Ask::Page(version, token) => {
                whole(
                    &client,
                    kind,
                    &requests::page(kind, version, token.as_deref()),
                    |text| {
                        let page = events::page(kind, text)?;
                        if keeper.is_on() {
                            for (read, text) in page.objects.iter().zip(events::texts_of_page(text)) {
                                keep(&keeper, read, text);
                            }
                        }
                        Ok(Heard::Page(page))
                    },
                )
                .await
            }
            Ask::Stream(version) => {
                listen(&client, &requests::stream(kind, version), kind, &mut teller).await
            }
            Ask::Watch(version, since) => {
                let path = requests::watch_from(kind, version, &since);
                listen(&client, &path, kind, &mut teller).await
            }
        };
        if let Some(heard) = heard.unwrap_or_else(Some)
            && !teller.hear(heard).await
        {
            return;
        }
        match teller.then {
            Then::Listen | Then::Ask => {}
            Then::Pause(pause) => tokio::time::sleep(pause).await,
        }
        if teller.to.is_closed() {
            return;
        }
    }
}

/// Keeps an object that can be read; of one that cannot, the last that could stays.
fn keep(keeper: &Keeper, read: &Read, text: &str) {
    if let Read::Good(object) = read {
        keeper.put(object.key(), text);
    }
}

/// Hears, and passes on what is said.
struct Teller {
    keeper: Keeper,
    follow: Follow,
    to: mpsc::Sender<Told>,
    then: Then,
}

impl Teller {
    /// False: nobody listens any more.
    async fn hear(&mut self, heard: Heard) -> bool {
        let mut said = Vec::new();
        self.then = self.follow.hear(heard, fastrand::f64(), &mut said);
        for said in said {
            match &said {
                Said::All(kind, read) if self.keeper.is_on() => {
                    self.keeper.all(*kind, read.iter().map(Read::key).collect());
                }
                Said::Missing(kind) => self.keeper.all(*kind, BTreeSet::new()),
                Said::Gone(key) => self.keeper.gone(key.clone()),
                _ => {}
            }
            if self.to.send(Told::Said(said)).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Something last to hear, or nothing because it was heard already; the error is what went wrong.
type Last = Result<Option<Heard>, Heard>;

/// Asks for something that ends, and reads it whole.
async fn whole(
    client: &Client,
    kind: Kind,
    path: &str,
    parse: impl FnOnce(&str) -> Result<Heard, serde_json::Error>,
) -> Last {
    let text = wire::whole(wire::open(client, path, requests::accept(kind)).await?).await?;
    Ok(Some(parse(&text).map_err(|error| nonsense(&error))?))
}

/// Watches: hears line by line until it is over.
async fn listen(client: &Client, path: &str, kind: Kind, teller: &mut Teller) -> Last {
    let mut lines = Lines::new(wire::open(client, path, requests::accept(kind)).await?);
    let since = Instant::now();
    if !teller.hear(Heard::Opened).await {
        return Ok(None);
    }
    while let Some(line) = lines.next().await? {
        let line = wire::text(&line)?;
        let event = events::event(kind, line).map_err(|error| nonsense(&error))?;
        if teller.keeper.is_on()
            && let Event::Put(read, _) = &event
            && let Some(text) = events::text_of_event(line)
        {
            keep(&teller.keeper, read, text);
        }
        if !teller.hear(Heard::Event(event)).await || teller.then != Then::Listen {
            return Ok(None);
        }
    }
    Ok(Some(Heard::Ended(since.elapsed())))
}

impl From<Trouble> for Heard {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(status, why) => Self::Refused(status, why),
            Trouble::Lost(why) => Self::Lost(why),
        }
    }
}

fn nonsense(error: &serde_json::Error) -> Heard {
    Heard::Lost(format!("the API server's answer cannot be read: {error}"))
}
