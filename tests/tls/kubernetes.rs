//! TLS from a directory of Kubernetes objects: a Gateway and an Ingress, with their certificates in Secrets.

use std::net::SocketAddr;

use tidegate::app::{self, Options, Source};
use tidegate::config::{AdminSettings, Settings};

use super::support::endpoint::report;
use super::support::proxy::any_port;
use super::support::tls::{Authority, Pair, shake, shown};
use super::support::{Client, Down, Endpoint, H1, soon};

fn base64(text: &str) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}

fn secret(name: &str, pair: &Pair) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: {}\n  \
         tls.key: {}\n",
        base64(&pair.chain),
        base64(&pair.key)
    )
}

fn objects(endpoint: SocketAddr) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: {}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: shop}}
spec:
  tls: [{{hosts: [shop.example], secretName: shop}}]
  rules:
  - host: shop.example
    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}
",
        endpoint.port()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_has_tls_and_its_certificate_is_replaced() {
    let authority = Authority::default();
    let (first, second) = (
        authority.sign(&["shop.example"]),
        authority.sign(&["shop.example"]),
    );
    let endpoint = Endpoint::serve(H1, report).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.yaml"), objects(endpoint.address)).unwrap();
    std::fs::write(directory.path().join("s.yaml"), secret("shop", &first)).unwrap();
    // The kernel chooses the ports, and tells clear text and TLS apart by the address as configured.
    let (clear, tls) = (any_port(), SocketAddr::from(([127, 0, 0, 2], 0)));
    let settings = tidegate::kubernetes::Settings {
        ingress_address: clear,
        ingress_tls_address: tls,
        ..tidegate::kubernetes::Settings::default()
    };
    let options = Options {
        settings: Settings {
            workers: Some(2),
            admin: AdminSettings { address: None },
            ..Settings::default()
        },
        sources: vec![Source::Manifests(directory.path().to_owned(), settings)],
    };
    let running = soon("the app to start", app::start(options)).await.unwrap();
    assert!(running.rejects.is_empty(), "{:?}", running.rejects);
    let (clear, tls) = (running.address(clear).unwrap(), running.address(tls).unwrap());

    let trust = authority.trusted_by().config();
    let stream = shake(&trust, tls, "shop.example").await.unwrap();
    assert_eq!(shown(&stream), first.der());
    let mut client = Client::over(Down::H1, stream).await;
    let ask = || {
        let mut asked = super::support::client::request(http::Method::GET, "/a?b=c");
        asked
            .headers_mut()
            .insert("host", "shop.example".parse().unwrap());
        asked
    };
    assert_eq!(client.send(ask()).await.status, 200);
    assert!(
        shake(&trust, tls, "other.example").await.is_err(),
        "nobody's certificate is everybody's"
    );
    let answer = Client::connect(Down::H1, clear).await.send(ask()).await;
    assert_eq!(answer.status, 308);
    // The port is that of the configuration, which here stands for any.
    assert_eq!(answer.get("location"), Some("https://shop.example:0/a?b=c"));

    std::fs::write(directory.path().join("s.yaml"), secret("shop", &second)).unwrap();
    soon("the new certificate", async {
        while shown(&shake(&trust, tls, "shop.example").await.unwrap()) != second.der() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(
        client.send(ask()).await.status,
        200,
        "a connection goes on with what it began with"
    );
    running.stop().await;
}
