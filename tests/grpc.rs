//! gRPC through the proxy: calls of every shape, statuses in trailers, deadlines, and failures in gRPC's own words.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use support::{Boxed, Endpoint, H2C, Proxy, Setup, empty, fed, soon};
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

/// Sends every message back as it comes, and a status behind them. A message on the wire is the same in both directions.
async fn echo(request: Request<hyper::body::Incoming>) -> Response<Boxed> {
    let response = || Response::builder().header("content-type", "application/grpc");
    if request.uri().path() == "/test.Echo/Refuse" {
        // Trailers only: the status is in the head.
        return response()
            .header("grpc-status", "9")
            .header("grpc-message", "not now")
            .body(empty())
            .unwrap();
    }
    let status = if request.uri().path() == "/test.Echo/Fail" {
        "5"
    } else {
        "0"
    };
    let (sender, body) = fed();
    tokio::spawn(async move {
        let mut upload = request.into_body();
        while let Some(Ok(frame)) = upload.frame().await {
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        trailers.insert("x-trailer", HeaderValue::from_static("there"));
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    response().body(body).unwrap()
}

async fn client(proxy: &Proxy) -> Grpc<Channel> {
    let channel = Channel::from_shared(format!("http://{}", proxy.address)).unwrap();
    Grpc::new(soon("a connection", channel.connect()).await.unwrap()).max_decoding_message_size(64 << 20)
}

async fn unary(client: &mut Grpc<Channel>, path: &'static str, message: Text) -> Result<Text, tonic::Status> {
    client.ready().await.unwrap();
    let codec: ProstCodec<Text, Text> = ProstCodec::default();
    let call = client.unary(
        tonic::Request::new(message),
        PathAndQuery::from_static(path),
        codec,
    );
    soon("an answer", call).await.map(tonic::Response::into_inner)
}

async fn echoing() -> (Endpoint, Proxy) {
    let endpoint = Endpoint::serve(H2C, echo).await;
    let proxy = Setup::to(&[endpoint.address]).speaking(H2C).start().await;
    (endpoint, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn unary_calls_of_every_size_are_answered() {
    let (_endpoint, proxy) = echoing().await;
    let mut client = client(&proxy).await;
    for length in [0, 1, 1000, 100_000, 5_000_000] {
        let message = text("x".repeat(length));
        assert!(
            unary(&mut client, "/test.Echo/Say", message.clone())
                .await
                .unwrap()
                == message
        );
    }
    drop(client);
    let lines = proxy.stop().await;
    assert!(lines.len() == 5 && lines.iter().all(|line| line.outcome() == "answered"));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_back_and_forth_one_by_one() {
    let (_endpoint, proxy) = echoing().await;
    let mut client = client(&proxy).await;
    client.ready().await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Text>(1);
    let messages = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|message| (message, receiver))
    });
    let codec: ProstCodec<Text, Text> = ProstCodec::default();
    let path = PathAndQuery::from_static("/test.Echo/Talk");
    let call = client.streaming(tonic::Request::new(messages), path, codec);
    let mut answers: Streaming<Text> = soon("the call", call).await.unwrap().into_inner();
    for number in 0..100 {
        sender.send(text(number.to_string())).await.unwrap();
        let answer = soon("an answer", answers.message()).await.unwrap();
        assert_eq!(answer, Some(text(number.to_string())));
    }
    drop(sender);
    assert_eq!(soon("the end", answers.message()).await.unwrap(), None);
    let trailers = answers.trailers().await.unwrap().unwrap();
    assert_eq!(trailers.get("x-trailer").unwrap(), "there");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_in_a_stream_keep_their_order() {
    let (_endpoint, proxy) = echoing().await;
    let mut client = client(&proxy).await;
    client.ready().await.unwrap();
    let messages = stream::iter((0..20_000).map(|number| text(format!("{number} {}", "x".repeat(100)))));
    let codec: ProstCodec<Text, Text> = ProstCodec::default();
    let path = PathAndQuery::from_static("/test.Echo/Talk");
    let call = client.streaming(tonic::Request::new(messages), path, codec);
    let mut answers: Streaming<Text> = soon("the call", call).await.unwrap().into_inner();
    let mut number = 0;
    while let Some(answer) = soon("an answer", answers.next()).await {
        assert!(answer.unwrap().text.starts_with(&format!("{number} ")));
        number += 1;
    }
    assert_eq!(number, 20_000);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoints_status_is_the_clients() {
    let (_endpoint, proxy) = echoing().await;
    let mut client = client(&proxy).await;
    let failed = unary(&mut client, "/test.Echo/Fail", text("x"))
        .await
        .unwrap_err();
    assert_eq!(failed.code(), Code::NotFound);
    let refused = unary(&mut client, "/test.Echo/Refuse", text("x"))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::FailedPrecondition, "not now")
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_proxy_are_told_in_grpcs_words() {
    let endpoint = Endpoint::serve(H2C, |_| async { std::future::pending().await }).await;
    let proxy = Setup::to(&[endpoint.address])
        .speaking(H2C)
        .rule(|rule| {
            rule.matches[0].path = tidegate::model::PathMatch::prefix("/test.Echo");
            rule.timeouts.request = Some(Duration::from_millis(200));
        })
        .start()
        .await;
    let mut client = client(&proxy).await;
    for (path, code, reason) in [
        ("/test.Echo/Say", Code::DeadlineExceeded, "request_timeout"),
        ("/test.Other/Say", Code::Unimplemented, "no_route"),
    ] {
        let told = unary(&mut client, path, text("x")).await.unwrap_err();
        assert_eq!((told.code(), told.message()), (code, reason));
    }
    proxy.set_endpoints("web", &[]).await;
    let told = unary(&mut client, "/test.Echo/Say", text("x")).await.unwrap_err();
    assert_eq!((told.code(), told.message()), (Code::Unavailable, "no_endpoint"));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_client_gives_up_ends_at_the_endpoint() {
    struct Gone(std::sync::Arc<std::sync::atomic::AtomicUsize>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let gone = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&gone);
    let endpoint = Endpoint::serve(H2C, move |_| {
        let here = Gone(std::sync::Arc::clone(&count));
        async move {
            std::future::pending::<()>().await;
            drop(here);
            Response::new(empty())
        }
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).speaking(H2C).start().await;
    let mut client = client(&proxy).await;
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(text("x"));
    request.set_timeout(Duration::from_millis(200));
    let codec: ProstCodec<Text, Text> = ProstCodec::default();
    let call = client.unary(request, PathAndQuery::from_static("/test.Echo/Say"), codec);
    let given_up = tokio::time::timeout(Duration::from_millis(300), call).await;
    assert!(given_up.is_err() || given_up.is_ok_and(|answer| answer.is_err()));
    support::until("the endpoint to notice", || {
        gone.load(std::sync::atomic::Ordering::SeqCst) == 1
    })
    .await;
    drop(client);
    let lines = proxy.stop().await;
    assert_eq!((lines.len(), lines[0].outcome()), (1, "client_gone"));
}
