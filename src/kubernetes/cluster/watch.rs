//! Asking the API server about one kind, for the life of the process. What is asked is decided in [`follow`](super::follow).

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::events::{self, Event, Read};
use super::follow::{Ask, Follow, Heard, Said, Then};
use super::hub::Told;
use super::keep::Keeper;
use super::requests;
use crate::kubernetes::Kind;

/// How long the head of an answer may take, and the silence within one that is not a watch.
const ANSWER: Duration = Duration::from_secs(30);

/// The longest silence of a watch: it is over by then.
const SILENCE: Duration = Duration::from_secs(requests::WATCH_SECONDS + 10);

/// The longest line of a watch. The API server stores objects of up to about 1.5 MB.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// The largest answer that is not a watch; pages have 250 objects.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Bytes read of an answer that refuses.
const MAX_REFUSAL: usize = 16 * 1024;

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
    let mut body = open(client, kind, path).await?.into_body();
    let mut text = BytesMut::new();
    while let Some(data) = frame(&mut body, ANSWER).await? {
        if text.len() + data.len() > MAX_ANSWER {
            return Err(Heard::Lost(format!("an answer of more than {MAX_ANSWER} bytes")));
        }
        text.extend_from_slice(&data);
    }
    let text = std::str::from_utf8(&text).map_err(|error| Heard::Lost(error.to_string()))?;
    parse(text).map(Some).map_err(|error| nonsense(&error))
}

/// Watches: hears line by line until it is over.
async fn listen(client: &Client, path: &str, kind: Kind, teller: &mut Teller) -> Last {
    let mut body = open(client, kind, path).await?.into_body();
    let since = Instant::now();
    if !teller.hear(Heard::Opened).await {
        return Ok(None);
    }
    let mut lines = BytesMut::new();
    let mut looked_at = 0;
    loop {
        while let Some(at) = memchr::memchr(b'\n', &lines[looked_at..]) {
            let line = lines.split_to(looked_at + at).freeze();
            lines.advance(1);
            looked_at = 0;
            let line = std::str::from_utf8(&line).map_err(|error| Heard::Lost(error.to_string()))?;
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
        looked_at = lines.len();
        if looked_at > MAX_LINE {
            return Err(Heard::Lost(format!("a line of more than {MAX_LINE} bytes")));
        }
        match frame(&mut body, SILENCE).await? {
            Some(data) => lines.extend_from_slice(&data),
            None => return Ok(Some(Heard::Ended(since.elapsed()))),
        }
    }
}

/// Asks, and waits for the head of a good answer.
async fn open(client: &Client, kind: Kind, path: &str) -> Result<Response<Body>, Heard> {
    let request = Request::get(path)
        .header(http::header::ACCEPT, requests::accept(kind))
        .body(Body::empty())
        .map_err(|error| Heard::Lost(error.to_string()))?;
    let response = match timeout(ANSWER, client.send(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(Heard::Lost(chain(&error))),
        Err(_) => return Err(Heard::Lost("the API server does not answer".to_owned())),
    };
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let mut body = response.into_body();
    let mut text = BytesMut::new();
    while let Ok(Some(data)) = frame(&mut body, ANSWER).await {
        text.extend_from_slice(&data[..data.len().min(MAX_REFUSAL - text.len())]);
        if text.len() == MAX_REFUSAL {
            break;
        }
    }
    Err(Heard::Refused(status.as_u16(), events::message(&text)))
}

/// The next data of a body.
async fn frame(body: &mut Body, silence: Duration) -> Result<Option<Bytes>, Heard> {
    loop {
        match timeout(silence, body.frame()).await {
            Err(_) => return Err(Heard::Lost("the API server fell silent".to_owned())),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(Heard::Lost(chain(&error))),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn nonsense(error: &serde_json::Error) -> Heard {
    Heard::Lost(format!("the API server's answer cannot be read: {error}"))
}

/// An error with its causes; the library's own text rarely says what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
