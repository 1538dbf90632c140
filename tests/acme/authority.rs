//! An authority (RFC 8555) in the test's process, that does as it is told: it takes nonces for bad ones, limits, finds
//! answers wrong, takes its time, and says when it wants certificates renewed. What it is told is really asked for, at each
//! of the places that the test names. Signatures of requests are not checked; Pebble does that (`tests/acme/pebble.py`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, PublicKeyData, SignatureAlgorithm};
use rustls::{ClientConfig, SignatureScheme};
use serde_json::{Value, json};
use tidegate::model::acme::{Acme, AcmeStore, ChallengeKind, DirectoryUrl, Pace};
use tidegate::model::tls::{Roots, TlsVersions, UpstreamTls, provider};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use super::support::tls::{Able, Authority as Signer, server, shake};
use super::support::{Boxed, Client, Down, full};

/// What it does.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// So many nonces are taken for bad ones.
    pub bad_nonces: u32,
    /// So many orders are refused, because there were too many.
    pub limited: u32,
    /// What it says with that, in seconds.
    pub retry_after: u64,
    /// So many answers are found wrong.
    pub wrong: u32,
    /// So often a finished order is still being worked on when it is asked for.
    pub processing: u32,
    /// So many requests are answered with a page of a proxy in front of it.
    pub unwell: u32,
    /// How long its certificates are good.
    pub life: Duration,
    /// When it wants them renewed: so long after their beginning.
    pub renewal: Option<Duration>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            bad_nonces: 0,
            limited: 0,
            retry_after: 0,
            wrong: 0,
            processing: 0,
            unwell: 0,
            life: Duration::from_secs(90 * 86_400),
            renewal: None,
        }
    }
}

/// Where it asks whether a name is ours: everywhere, each time.
#[derive(Clone, Debug)]
pub enum Places {
    Http(Vec<SocketAddr>),
    Tls(Vec<SocketAddr>),
    /// A file that a hook writes, with lines `NAME VALUE`.
    Records(std::path::PathBuf),
}

pub struct Authority {
    pub signer: Arc<Signer>,
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    signer: Arc<Signer>,
    address: SocketAddr,
    places: watch::Sender<Option<Places>>,
    desk: Mutex<Desk>,
}

#[derive(Default)]
struct Desk {
    behaviour: Behaviour,
    nonce: u64,
    orders: Vec<Order>,
    /// How often an account was opened.
    accounts: u32,
    contact: Vec<String>,
    refused: Vec<Instant>,
}

struct Order {
    name: String,
    replaces: Option<String>,
    status: &'static str,
    why: Option<String>,
    left: u32,
    chain: String,
}

impl Authority {
    pub async fn start(behaviour: Behaviour) -> Self {
        let signer = Arc::new(Signer::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(server(&signer.sign(&["127.0.0.1"]), &["http/1.1"], None));
        let state = Arc::new(State {
            signer: Arc::clone(&signer),
            address,
            places: watch::Sender::new(None),
            desk: Mutex::new(Desk {
                behaviour,
                ..Desk::default()
            }),
        });
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&serving));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request| {
                        let state = Arc::clone(&state);
                        async move { Ok::<_, std::convert::Infallible>(state.answer(request).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self {
            signer,
            address,
            state,
        }
    }

    /// What an account there is like.
    pub fn account(&self, challenge: ChallengeKind, store: &std::path::Path) -> Acme {
        let roots = Roots::Bundle(self.signer.bundle());
        Acme {
            directory: DirectoryUrl::parse(&format!("https://{}/dir", self.address)).unwrap(),
            tls: UpstreamTls::new("127.0.0.1", roots, Vec::new(), None, TlsVersions::default()).unwrap(),
            contact: vec!["mailto:ops@example.com".to_owned()],
            challenge,
            store: AcmeStore::Directory(store.to_owned()),
            external_account: None,
            pace: Pace {
                look: Duration::from_millis(20),
                spread: Duration::from_millis(400),
                lease: Duration::from_secs(3),
                unwell: Duration::ZERO,
                refused: Duration::ZERO,
            },
        }
    }

    pub fn ask_at(&self, places: Places) {
        self.state.places.send_replace(Some(places));
    }

    /// Changes what it does from now on.
    pub fn behave(&self, edit: impl FnOnce(&mut Behaviour)) {
        edit(&mut self.state.desk.lock().unwrap().behaviour);
    }

    /// The names of orders, and what they were to replace.
    pub fn orders(&self) -> Vec<(String, Option<String>)> {
        let desk = self.state.desk.lock().unwrap();
        let orders = desk.orders.iter();
        orders
            .map(|order| (order.name.clone(), order.replaces.clone()))
            .collect()
    }

    pub fn accounts(&self) -> (u32, Vec<String>) {
        let desk = self.state.desk.lock().unwrap();
        (desk.accounts, desk.contact.clone())
    }

    /// When orders were refused because there were too many.
    pub fn refused(&self) -> Vec<Instant> {
        self.state.desk.lock().unwrap().refused.clone()
    }
}

impl State {
    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Boxed> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let payload = payload(&body);
        let path = head.uri.path().to_owned();
        let mut answer =
            if head.method == Method::POST && self.desk.lock().unwrap().takes(|it| &mut it.bad_nonces) {
                problem(400, "badNonce", "stale")
            } else if head.method == Method::POST && self.desk.lock().unwrap().takes(|it| &mut it.unwell) {
                let mut page = Response::new(full("<html>Bad Gateway</html>"));
                *page.status_mut() = StatusCode::BAD_GATEWAY;
                page
            } else {
                self.route(&head.method, &path, payload).await
            };
        let mut desk = self.desk.lock().unwrap();
        desk.nonce += 1;
        let nonce = HeaderValue::from_str(&format!("nonce{}", desk.nonce)).unwrap();
        answer.headers_mut().insert("replay-nonce", nonce);
        answer
    }

    async fn route(&self, method: &Method, path: &str, payload: Value) -> Response<Boxed> {
        let mut parts = path.trim_start_matches('/').split('/');
        let (what, id) = (parts.next().unwrap(), parts.next().unwrap_or_default().to_owned());
        let number = || id.parse::<usize>().unwrap();
        match (method.as_str(), what) {
            ("GET", "dir") => {
                let mut directory = json!({
                    "newNonce": self.url("/nonce"), "newAccount": self.url("/account"), "newOrder": self.url("/order"),
                    "revokeCert": self.url("/revoke"), "keyChange": self.url("/key"),
                });
                if self.desk.lock().unwrap().behaviour.renewal.is_some() {
                    directory["renewalInfo"] = self.url("/renewal").into();
                }
                said(200, directory)
            }
            ("HEAD", "nonce") => said(200, Value::Null),
            ("POST", "account") => {
                let mut desk = self.desk.lock().unwrap();
                if id.is_empty() {
                    assert_eq!(payload["termsOfServiceAgreed"], true);
                    desk.accounts += 1;
                }
                let contact = payload["contact"].as_array().unwrap();
                desk.contact = contact
                    .iter()
                    .map(|one| one.as_str().unwrap().to_owned())
                    .collect();
                at(said(201, json!({"status": "valid"})), &self.url("/account/1"))
            }
            ("POST", "order") if id.is_empty() => self.open(&payload),
            ("POST", "order") => self.show(number()),
            ("POST", "authorization") => self.authorization(number()),
            ("POST", "challenge") => {
                self.challenge(number()).await;
                said(200, self.challenges(number())[0].clone())
            }
            ("POST", "finalize") => self.finalize(number(), payload["csr"].as_str().unwrap()),
            ("POST", "certificate") => {
                let chain = self.desk.lock().unwrap().orders[number()].chain.clone();
                Response::new(full(chain))
            }
            ("GET", "renewal") => self.renewal(&id),
            _ => problem(404, "malformed", path),
        }
    }

    fn open(&self, payload: &Value) -> Response<Boxed> {
        let mut desk = self.desk.lock().unwrap();
        if desk.takes(|it| &mut it.limited) {
            desk.refused.push(Instant::now());
            let mut answer = problem(429, "rateLimited", "too many certificates");
            let wait = HeaderValue::from(desk.behaviour.retry_after);
            answer.headers_mut().insert("retry-after", wait);
            return answer;
        }
        let names = payload["identifiers"].as_array().unwrap();
        assert_eq!(names.len(), 1);
        let left = desk.behaviour.processing;
        desk.orders.push(Order {
            name: names[0]["value"].as_str().unwrap().to_owned(),
            replaces: payload["replaces"].as_str().map(str::to_owned),
            status: "pending",
            why: None,
            left,
            chain: String::new(),
        });
        let number = desk.orders.len() - 1;
        drop(desk);
        let mut answer = self.show(number);
        *answer.status_mut() = StatusCode::CREATED;
        at(answer, &self.url(&format!("/order/{number}")))
    }

    fn show(&self, number: usize) -> Response<Boxed> {
        let mut desk = self.desk.lock().unwrap();
        let order = &mut desk.orders[number];
        if order.status == "processing" {
            if order.left == 0 {
                order.status = "valid";
            }
            order.left = order.left.saturating_sub(1);
        }
        let mut shown = json!({
            "status": order.status,
            "identifiers": [{"type": "dns", "value": order.name}],
            "authorizations": [self.url(&format!("/authorization/{number}"))],
            "finalize": self.url(&format!("/finalize/{number}")),
            "certificate": self.url(&format!("/certificate/{number}")),
        });
        if let Some(replaces) = &order.replaces {
            shown["replaces"] = replaces.as_str().into();
        }
        let mut answer = said(200, shown);
        answer.headers_mut().insert("retry-after", HeaderValue::from(0));
        answer
    }

    fn authorization(&self, number: usize) -> Response<Boxed> {
        let desk = self.desk.lock().unwrap();
        let order = &desk.orders[number];
        let status = match order.status {
            "ready" | "processing" | "valid" => "valid",
            other => other,
        };
        let base = order.name.strip_prefix("*.").unwrap_or(&order.name).to_owned();
        let wildcard = order.name.starts_with("*.");
        drop(desk);
        said(
            200,
            json!({
                "status": status, "identifier": {"type": "dns", "value": base}, "wildcard": wildcard,
                "challenges": self.challenges(number),
            }),
        )
    }

    fn challenges(&self, number: usize) -> Vec<Value> {
        let desk = self.desk.lock().unwrap();
        let order = &desk.orders[number];
        let error = order.why.as_ref().map(
            |why| json!({"type": "urn:ietf:params:acme:error:unauthorized", "detail": why, "status": 403}),
        );
        let status = if error.is_some() { "invalid" } else { "pending" };
        let one = |kind: &str| {
            json!({
                "type": kind, "url": self.url(&format!("/challenge/{number}")), "token": token(number),
                "status": status, "error": error,
            })
        };
        ["http-01", "tls-alpn-01", "dns-01"].map(one).into()
    }

    /// Asks for the answer, and finds it right or wrong.
    async fn challenge(&self, number: usize) {
        let name = self.desk.lock().unwrap().orders[number].name.clone();
        let mut places = self.places.subscribe();
        let places = places.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        let found = ask(&places, &name, &token(number)).await;
        let mut desk = self.desk.lock().unwrap();
        let found = match desk.takes(|it| &mut it.wrong) {
            true => Err("the answer is not the expected one".to_owned()),
            false => found,
        };
        let order = &mut desk.orders[number];
        match found {
            Ok(()) => order.status = "ready",
            Err(why) => (order.status, order.why) = ("invalid", Some(why)),
        }
    }

    fn finalize(&self, number: usize, request: &str) -> Response<Boxed> {
        let request = BASE64URL_NOPAD.decode(request.as_bytes()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&request).unwrap();
        let info = &request.certification_request_info;
        let key = Asked(info.subject_pki.subject_public_key.data.to_vec());
        let mut desk = self.desk.lock().unwrap();
        let life = desk.behaviour.life;
        let order = &mut desk.orders[number];
        assert_eq!(order.status, "ready");
        let mut params = CertificateParams::new(vec![order.name.clone()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        params.not_before = SystemTime::now().into();
        params.not_after = (SystemTime::now() + life).into();
        order.chain = self.signer.sign_request(&params, &key);
        order.status = "processing";
        drop(desk);
        self.show(number)
    }

    fn renewal(&self, id: &str) -> Response<Boxed> {
        // The end of the certificate that is meant does not matter: all that are good began just now.
        let desk = self.desk.lock().unwrap();
        assert!(id.contains('.'), "{id}");
        let after = desk.behaviour.renewal.unwrap();
        let moment = rfc3339(SystemTime::now() + after);
        let mut answer = said(200, json!({"suggestedWindow": {"start": moment, "end": moment}}));
        answer.headers_mut().insert("retry-after", HeaderValue::from(600));
        answer
    }
}

impl Desk {
    /// Whether one of these is left, and one less from now on.
    fn takes(&mut self, of: impl FnOnce(&mut Behaviour) -> &mut u32) -> bool {
        let left = of(&mut self.behaviour);
        let some = *left > 0;
        *left = left.saturating_sub(1);
        some
    }
}

fn token(number: usize) -> String {
    format!("token-{number}")
}

/// Asks at each place.
async fn ask(places: &Places, name: &str, token: &str) -> Result<(), String> {
    match places {
        Places::Http(addresses) => {
            for address in addresses {
                let path = format!("/.well-known/acme-challenge/{token}");
                let mut request = super::support::client::request(Method::GET, &path);
                request
                    .headers_mut()
                    .insert("host", HeaderValue::from_str(name).unwrap());
                let answer = Client::connect(Down::H1, *address).await.send(request).await;
                if !answer.text().starts_with(&format!("{token}.")) {
                    return Err(format!("{address} says {:?}", answer.text()));
                }
            }
        }
        Places::Tls(addresses) => {
            for address in addresses {
                let stream = shake(&asking(), *address, name).await;
                let stream = stream.map_err(|error| format!("{address}: {error}"))?;
                let (_, connection) = stream.get_ref();
                assert_eq!(connection.alpn_protocol(), Some(&b"acme-tls/1"[..]));
                let shown = connection.peer_certificates().unwrap()[0].clone();
                let (_, shown) = X509Certificate::from_der(&shown).unwrap();
                let mut proofs = shown.extensions().iter();
                if !proofs.any(|one| one.critical && one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31") {
                    return Err(format!("{address} shows no proof"));
                }
            }
        }
        Places::Records(file) => {
            let record = format!("_acme-challenge.{} ", name.trim_start_matches("*."));
            let records = std::fs::read_to_string(file).unwrap_or_default();
            if !records.lines().any(|line| line.starts_with(&record)) {
                return Err(format!("no record {record}"));
            }
        }
    }
    Ok(())
}

/// A client that asks whether a name is ours.
fn asking() -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        // It is not verified; what it has in it is looked at.
        .with_custom_certificate_verifier(Arc::new(Able(vec![SignatureScheme::ECDSA_NISTP256_SHA256])))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    Arc::new(config)
}

/// A public key that somebody wants signed.
pub struct Asked(Vec<u8>);

impl PublicKeyData for Asked {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// What a request says (RFC 8555 §6.2).
fn payload(body: &[u8]) -> Value {
    let Ok(request) = serde_json::from_slice::<BTreeMap<String, String>>(body) else {
        return Value::Null;
    };
    let payload = BASE64URL_NOPAD.decode(request["payload"].as_bytes()).unwrap();
    serde_json::from_slice(&payload).unwrap_or_default()
}

fn said(status: u16, value: Value) -> Response<Boxed> {
    let mut answer = Response::new(full(value.to_string()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

fn problem(status: u16, kind: &str, detail: &str) -> Response<Boxed> {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    said(status, json!({"type": kind, "detail": detail, "status": status}))
}

fn at(mut answer: Response<Boxed>, location: &str) -> Response<Boxed> {
    let location = HeaderValue::from_str(location).unwrap();
    answer.headers_mut().insert("location", location);
    answer
}

/// RFC 3339, to the second.
fn rfc3339(time: SystemTime) -> String {
    // The library that signs has a calendar.
    let mut params = CertificateParams::default();
    params.not_before = time.into();
    let (hour, minute, second) = params.not_before.to_hms();
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", params.not_before.date())
}
