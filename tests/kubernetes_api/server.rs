//! An API server that does as it is told: lists in pages or as streams, watches, versions that are too old, absence.

mod apply;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{Boxed, fed, full};

/// Kinds that the server has, by the path of their collection.
const COLLECTIONS: &[&str] = &[
    "/api/v1/services",
    "/api/v1/namespaces",
    "/api/v1/secrets",
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/apis/networking.k8s.io/v1/ingresses",
    "/apis/networking.k8s.io/v1/ingressclasses",
    "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
    "/apis/gateway.networking.k8s.io/v1/gateways",
    "/apis/gateway.networking.k8s.io/v1/httproutes",
    "/apis/gateway.networking.k8s.io/v1/grpcroutes",
    "/apis/gateway.networking.k8s.io/v1/listenersets",
    "/apis/gateway.networking.k8s.io/v1/tcproutes",
    "/apis/gateway.networking.k8s.io/v1/tlsroutes",
    "/apis/gateway.networking.k8s.io/v1/udproutes",
    "/apis/gateway.networking.k8s.io/v1/backendtlspolicies",
    "/api/v1/configmaps",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "/apis/gateway.networking.k8s.io/v1beta1/referencegrants",
    "/apis/coordination.k8s.io/v1/leases",
    "/apis/events.k8s.io/v1/events",
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
];

/// Objects per page, whatever is asked for.
const PAGE: usize = 2;

/// What the server knows, and how it behaves.
#[derive(Default)]
pub struct World {
    version: u64,
    /// By collection, then `namespace/name`.
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// What happened: version, collection, line.
    log: Vec<(u64, &'static str, Value)>,
    /// What happened before is not known any more.
    oldest: u64,
    /// Collections that are not there.
    pub missing: BTreeSet<&'static str>,
    /// Collections whose answers are held back.
    pub held: BTreeSet<&'static str>,
    /// Collections whose watches say nothing for now.
    pub muted: BTreeSet<&'static str>,
    /// Whether lists come as streams.
    pub streams: bool,
    /// What was asked, as path and query.
    pub asked: Vec<String>,
    /// Statuses that were written, by the paths of their objects.
    pub written: Vec<String>,
    /// What was applied last, by the path of its object, and how often anything was.
    applied: BTreeMap<String, Value>,
    /// How often something was applied.
    pub applies: usize,
}

/// The server; it ends when dropped.
pub struct ApiServer {
    pub address: SocketAddr,
    state: Arc<State>,
    task: Option<JoinHandle<()>>,
}

struct State {
    world: Mutex<World>,
    /// Counts changes of the world.
    changed: watch::Sender<u64>,
}

impl ApiServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = World {
            version: 100,
            streams: true,
            ..World::default()
        };
        let state = Arc::new(State {
            world: Mutex::new(world),
            changed: watch::channel(0).0,
        });
        let task = Some(tokio::spawn(serve(listener, Arc::clone(&state))));
        Self { address, state, task }
    }

    /// Changes how it behaves; who waits looks again.
    pub fn set(&self, edit: impl FnOnce(&mut World)) {
        edit(&mut self.state.world());
        self.state.changed.send_modify(|count| *count += 1);
    }

    /// Puts an object, or many, from YAML.
    pub fn put(&self, yaml: &str) {
        let documents: Vec<Value> = yaml
            .split("\n---\n")
            .map(|text| serde_saphyr::from_str(text).unwrap())
            .collect();
        self.set(|world| {
            for object in documents {
                world.put(object);
            }
        });
    }

    /// Deletes an object.
    pub fn delete(&self, collection: &'static str, name: &str) {
        self.set(|world| world.delete(collection, name));
    }

    /// An object; null where there is none.
    pub fn get(&self, collection: &str, name: &str) -> Value {
        let world = self.state.world();
        let found = world.objects.get(collection).and_then(|all| all.get(name));
        found.cloned().unwrap_or_default()
    }

    /// Changes an object, as another than Tidegate does.
    pub fn edit(&self, collection: &'static str, name: &str, edit: impl FnOnce(&mut Value)) {
        self.set(|world| {
            let mut object = world.objects[collection][name].clone();
            edit(&mut object);
            world.put(object);
        });
    }

    /// How often something was applied.
    pub fn applies(&self) -> usize {
        self.state.world().applies
    }

    /// Forgets what happened: who watched from before must read anew.
    pub fn compact(&self) {
        self.set(|world| {
            world.version += 1;
            world.oldest = world.version;
            world.log.clear();
        });
    }

    /// Ends all connections and listens no more.
    pub async fn stop(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    /// Listens again, where it did.
    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.task = Some(tokio::spawn(serve(listener, Arc::clone(&self.state))));
    }

    /// Whether a question with these parts was asked.
    pub fn was_asked(&self, parts: &[&str]) -> bool {
        let world = self.state.world();
        let mut asked = world.asked.iter();
        asked.any(|asked| parts.iter().all(|part| asked.contains(part)))
    }

    /// The objects of a collection.
    pub fn all(&self, collection: &str) -> Vec<Value> {
        let world = self.state.world();
        let all = world.objects.get(collection).into_iter().flatten();
        all.map(|(_, object)| object.clone()).collect()
    }

    /// An object's status.
    pub fn status(&self, collection: &str, name: &str) -> Value {
        let world = self.state.world();
        world.objects[collection][name]["status"].clone()
    }

    /// The paths of the objects whose status was written.
    pub fn written(&self) -> Vec<String> {
        self.state.world().written.clone()
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]\nusers: [{{name: u, user: {{}}}}]\n",
            self.address
        )
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl State {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
}

impl World {
    fn delete(&mut self, collection: &'static str, name: &str) {
        let mut object = self.objects.get_mut(collection).unwrap().remove(name).unwrap();
        self.applied.remove(&format!("{collection}/{name}"));
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let line = json!({"type": "DELETED", "object": object});
        self.log.push((self.version, collection, line));
    }

    fn put(&mut self, mut object: Value) {
        let kind = object["kind"].as_str().unwrap().to_lowercase();
        let plural = if kind.ends_with("ss") {
            format!("{kind}es")
        } else {
            format!("{kind}s")
        };
        let collection = COLLECTIONS
            .iter()
            .find(|path| path.ends_with(&format!("/{plural}")))
            .unwrap();
        self.version += 1;
        let version = self.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let is_cluster_wide = [
            "/namespaces",
            "/ingressclasses",
            "/gatewayclasses",
            "/mutatingwebhookconfigurations",
        ]
        .iter()
        .any(|end| collection.ends_with(end));
        if !is_cluster_wide && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!("default");
        }
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("");
        let name = format!("{namespace}/{}", object["metadata"]["name"].as_str().unwrap());
        let old = self
            .objects
            .entry(collection)
            .or_default()
            .insert(name, object.clone());
        let what = if old.is_some() { "MODIFIED" } else { "ADDED" };
        let line = json!({"type": what, "object": object});
        self.log.push((version, collection, line));
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new(); // dropped with the task: their ends are ends without a word
    while let Ok((socket, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(answer(request, state).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Response<Boxed> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    state.world().asked.push(format!("{path}?{query}"));
    let mut namespace = None;
    let mut collection = COLLECTIONS.iter().copied().find(|known| *known == path);
    if let Some(place) = place(&path) {
        match place.1.strip_suffix('/') {
            Some(of) if request.method() == Method::GET => {
                (collection, namespace) = (Some(place.0), Some(of.to_owned()));
            }
            _ => return one(request, place, &state).await,
        }
    }
    let Some(collection) = collection else {
        return resources(&path, &state);
    };
    let mut changed = state.changed.subscribe();
    while state.world().held.contains(collection) {
        changed.changed().await.unwrap();
    }
    if state.world().missing.contains(collection) {
        return status(404, "the server could not find the requested resource");
    }
    let parameter = |name: &str| -> Option<String> {
        let pairs = query.split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
    };
    let selection = Selection {
        namespace,
        label: parameter("labelSelector").map(|text| {
            let plain = text.replace("%2F", "/").replace("%3D", "=");
            let (name, value) = plain.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        }),
    };
    if parameter("watch").is_some() {
        let streams = parameter("sendInitialEvents").is_some();
        if streams && !state.world().streams {
            return status(
                422,
                "sendInitialEvents is forbidden for watch unless the feature gate is on",
            );
        }
        let since = parameter("resourceVersion").map(|version| version.parse::<u64>().unwrap());
        if since.is_some_and(|since| since < state.world().oldest) {
            return status(410, "too old resource version");
        }
        return follow(collection, selection, since, state);
    }
    let first: usize = parameter("continue").map_or(0, |token| token.parse().unwrap());
    let world = state.world();
    let all: Vec<&Value> = world
        .objects
        .get(collection)
        .into_iter()
        .flat_map(|all| all.values())
        .filter(|object| selection.takes(object))
        .collect();
    let count = parameter("limit").map_or(all.len(), |_| PAGE);
    let items: Vec<&&Value> = all.iter().skip(first).take(count).collect();
    let next = (first + count < all.len()).then(|| (first + count).to_string());
    json_answer(
        200,
        &json!({
            "metadata": {"resourceVersion": world.version.to_string(), "continue": next},
            "items": items,
        }),
    )
}

/// Which objects of a collection are asked for.
struct Selection {
    namespace: Option<String>,
    label: Option<(String, String)>,
}

impl Selection {
    fn takes(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let of = |namespace: &String| metadata["namespace"] == namespace.as_str();
        let has = |(name, value): &(String, String)| metadata["labels"][name] == value.as_str();
        self.namespace.as_ref().is_none_or(of) && self.label.as_ref().is_none_or(has)
    }
}

/// A collection, an object's `namespace/name` in it (no name: a new one), and whether its status is meant.
type Place = (&'static str, String, bool);

/// The object that a path leads to, if it is not that of a collection.
fn place(path: &str) -> Option<Place> {
    COLLECTIONS.iter().copied().find_map(|collection| {
        let (prefix, plural) = collection.rsplit_once('/')?;
        let rest: Vec<&str> = path.strip_prefix(prefix)?.strip_prefix('/')?.split('/').collect();
        match rest.as_slice() {
            ["namespaces", namespace, of, rest @ ..] if *of == plural => match rest {
                [] => Some((collection, format!("{namespace}/"), false)),
                [name] => Some((collection, format!("{namespace}/{name}"), false)),
                [name, "status"] => Some((collection, format!("{namespace}/{name}"), true)),
                _ => None,
            },
            [of, name] if *of == plural => Some((collection, format!("/{name}"), false)),
            [of, name, "status"] if *of == plural => Some((collection, format!("/{name}"), true)),
            _ => None,
        }
    })
}

/// Reads, makes or changes one object. What is changed must be the version that is there.
async fn one(
    request: Request<Incoming>,
    (collection, name, is_status): Place,
    state: &State,
) -> Response<Boxed> {
    let method = request.method().clone();
    let is_apply = request
        .headers()
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/apply-patch+yaml");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut world = state.world();
    let known = world
        .objects
        .get(collection)
        .and_then(|all| all.get(&name))
        .cloned();
    if method == Method::GET {
        return match known {
            Some(object) => json_answer(200, &object),
            None => status(404, "not found"),
        };
    }
    if method == Method::DELETE {
        if known.is_none() {
            return status(404, "not found");
        }
        world.delete(collection, &name);
        drop(world);
        state.changed.send_modify(|count| *count += 1);
        return status(200, "deleted");
    }
    let sent: Value = serde_json::from_slice(&body).unwrap();
    if is_apply {
        world.applies += 1;
        let before = world.applied.insert(format!("{collection}/{name}"), sent.clone());
        let next = apply::applied(known.clone().unwrap_or_default(), before, &sent);
        if known.as_ref() != Some(&next) {
            world.put(next.clone());
            drop(world);
            state.changed.send_modify(|count| *count += 1);
        }
        return json_answer(200, &next);
    }
    let name = match (&method, sent["metadata"]["name"].as_str()) {
        (&Method::POST, Some(new)) => format!("{name}{new}"),
        _ => name,
    };
    let known = known.or_else(|| world.objects.get(collection)?.get(&name).cloned());
    if method == Method::POST && known.is_some() {
        return status(409, "it is there already");
    }
    let mut next = match known {
        Some(known) if sent.is_array() => match patched(known, &sent) {
            Some(next) => next,
            None => return status(422, "the patch does not fit"),
        },
        Some(mut known) if method == Method::PATCH && !is_status => {
            let version = &sent["metadata"]["resourceVersion"];
            if !version.is_null() && *version != known["metadata"]["resourceVersion"] {
                return status(409, "the object has been modified");
            }
            merge(&mut known, &sent);
            known
        }
        None if method == Method::PATCH || method == Method::PUT => return status(404, "not found"),
        Some(known) if sent["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"] => {
            return status(409, "the object has been modified");
        }
        Some(known) if method == Method::PATCH && is_status => known,
        _ => sent.clone(),
    };
    if is_status {
        for (name, value) in sent["status"].as_object().unwrap() {
            next["status"][name] = value.clone();
        }
        world.written.push(format!("{collection}/{name}"));
    }
    world.put(next.clone());
    drop(world);
    state.changed.send_modify(|count| *count += 1);
    json_answer(200, &next)
}

/// Merges as RFC 7386 says.
fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(into.as_object_mut().unwrap().remove(name)),
            value => merge(&mut into[name], value),
        }
    }
}

/// An object after a JSON patch of `test` and `add`; none where a test fails.
fn patched(mut object: Value, operations: &Value) -> Option<Value> {
    for operation in operations.as_array().unwrap() {
        let (path, value) = (operation["path"].as_str().unwrap(), &operation["value"]);
        match operation["op"].as_str().unwrap() {
            "test" => drop(object.pointer(path).filter(|there| *there == value)?),
            "add" => {
                let (parent, last) = path.rsplit_once('/').unwrap();
                object.pointer_mut(parent)?[last] = value.clone();
            }
            other => panic!("{other}"),
        }
    }
    Some(object)
}

/// Lines of a watch; without a version all objects first.
fn follow(
    collection: &'static str,
    selection: Selection,
    since: Option<u64>,
    state: Arc<State>,
) -> Response<Boxed> {
    let (sender, body) = fed();
    tokio::spawn(async move {
        let mut changed = state.changed.subscribe();
        let mut seen = since.unwrap_or_default();
        let mut first = Vec::new();
        if since.is_none() {
            let world = state.world();
            seen = world.version;
            let objects = world
                .objects
                .get(collection)
                .into_iter()
                .flat_map(|all| all.values())
                .filter(|object| selection.takes(object));
            first.extend(objects.map(|object| json!({"type": "ADDED", "object": object})));
            first.push(json!({"type": "BOOKMARK", "object": {"metadata": {
                "resourceVersion": seen.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}}));
        }
        loop {
            let mut lines = std::mem::take(&mut first);
            if !state.world().muted.contains(collection) {
                let world = state.world();
                let news = world
                    .log
                    .iter()
                    .filter(|(version, of, _)| *version > seen && *of == collection)
                    .filter(|(_, _, line)| selection.takes(&line["object"]));
                lines.extend(news.map(|(_, _, line)| line.clone()));
                if seen < world.oldest {
                    lines.push(json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}));
                }
                seen = world.version;
            }
            for line in lines {
                // In two pieces, as a network may cut them.
                let text = format!("{line}\n");
                let (head, tail) = text.split_at(text.len() / 2);
                for piece in [head, tail] {
                    let data = Frame::data(Bytes::copy_from_slice(piece.as_bytes()));
                    if sender.send(Ok(data)).await.is_err() {
                        return;
                    }
                }
            }
            tokio::select! {
                () = sender.closed() => return,
                changed = changed.changed() => if changed.is_err() { return },
            }
        }
    });
    Response::new(body)
}

fn resources(path: &str, state: &State) -> Response<Boxed> {
    let world = state.world();
    let names: Vec<Value> = COLLECTIONS
        .iter()
        .filter(|known| !world.missing.contains(*known))
        .filter_map(|known| known.strip_prefix(path)?.strip_prefix('/'))
        .map(|name| json!({"name": name}))
        .collect();
    if names.is_empty() {
        return status(404, "the server could not find the requested resource");
    }
    json_answer(200, &json!({"kind": "APIResourceList", "resources": names}))
}

fn status(code: u16, message: &str) -> Response<Boxed> {
    json_answer(code, &json!({"kind": "Status", "code": code, "message": message}))
}

fn json_answer(code: u16, value: &Value) -> Response<Boxed> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}
