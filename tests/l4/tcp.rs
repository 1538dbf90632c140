//! Relayed connections in clear text.

use std::collections::BTreeSet;
use std::time::Duration;

use super::support::endpoint::{Refusing, Silent};
use super::support::proxy::share;
use super::support::wire::End;
use super::support::{Endpoint, Proxy, Wire, lines_of, pattern, soon, until};
use super::{echo, named, relay};
use tidegate::model::{Affinity, AffinityBy, AffinityMode, Balance};

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_both_ways_and_half_closes_too() {
    let endpoint = echo().await;
    let proxy = relay(&[endpoint.address]).start().await;
    let sent = pattern(3_000_000);
    let (stream, _) = proxy.wire().await.into_parts();
    let (mut read, mut write) = stream.into_split();
    let bytes = sent.clone();
    let writer = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut write, &bytes)
            .await
            .unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut write).await.unwrap();
        write
    });
    let mut got = Vec::new();
    soon(
        "the echo",
        tokio::io::AsyncReadExt::read_to_end(&mut read, &mut got),
    )
    .await
    .unwrap();
    assert!(got == sent, "something was lost or moved");
    drop(writer.await.unwrap());
    let lines = lines_of(proxy, 1).await;
    let line = &lines[0].0;
    assert_eq!(lines[0].outcome(), "relayed");
    assert_eq!(line["protocol"], "tcp");
    assert_eq!(
        (line["request_bytes"].as_u64(), line["response_bytes"].as_u64()),
        (Some(3_000_000), Some(3_000_000))
    );
    assert_eq!(line["endpoint"], endpoint.address.to_string());
    assert_eq!(
        (line["backend"].as_str(), line["listener"].as_str()),
        (Some("web"), Some("http"))
    );
    assert!(line["connect_ms"].is_number() && line["head_ms"].is_number());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_may_speak_first_and_end_first() {
    let endpoint = Endpoint::script(|_, mut wire| async move {
        wire.send("hello").await;
        wire.finish().await;
        let (said, _) = wire.rest().await;
        assert_eq!(said, b"goodbye");
    })
    .await;
    let proxy = relay(&[endpoint.address]).start().await;
    let mut wire = proxy.wire().await;
    assert_eq!(wire.rest().await, (b"hello".to_vec(), End::Closed));
    // The other way is still open.
    assert!(wire.send("goodbye").await);
    wire.finish().await;
    let lines = lines_of(proxy, 1).await;
    assert_eq!(lines[0].outcome(), "relayed");
    assert_eq!(lines[0].0["request_bytes"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_gives_no_connection_is_passed_over() {
    let good = named("good").await;
    let (refusing, silent) = (Refusing::new(), Silent::new());
    let addresses = [refusing.address, silent.address, good.address];
    let proxy = relay(&addresses)
        .policy(|backend| backend.connect_timeout = Duration::from_millis(100))
        .rule(|rule| rule.retry.attempts = 5)
        .start()
        .await;
    for _ in 0..6 {
        assert_eq!(proxy.wire().await.rest().await.0, b"good");
    }
    let lines = lines_of(proxy, 6).await;
    assert!(lines.iter().all(|line| line.outcome() == "relayed"));
    assert!(
        lines.iter().any(|line| line.attempts() > 1),
        "luck: nobody met a bad one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_takes_is_reset() {
    let (refusing, silent) = (Refusing::new(), Silent::new());
    for (addresses, attempts, outcome) in [
        (&[refusing.address][..], 1, "connect_refused"),
        (&[silent.address], 1, "connect_timeout"),
        (&[], 0, "no_endpoint"),
    ] {
        let proxy = relay(addresses)
            .policy(|backend| backend.connect_timeout = Duration::from_millis(50))
            .rule(|rule| rule.retry.attempts = 1)
            .start()
            .await;
        assert!(is_reset(&proxy).await, "{outcome}");
        let lines = lines_of(proxy, 1).await;
        assert_eq!((lines[0].outcome(), lines[0].attempts()), (outcome, attempts));
    }
    let mut setup = relay(&[refusing.address]);
    setup.rules.clear();
    let proxy = setup.start().await;
    assert!(is_reset(&proxy).await);
    assert_eq!(lines_of(proxy, 1).await[0].outcome(), "no_route");
}

/// Whether a connection ends with a reset and without a byte. It may come while the client is still connecting.
async fn is_reset(proxy: &Proxy) -> bool {
    match tokio::net::TcpStream::connect(proxy.address).await {
        Ok(stream) => Wire::new(stream, None).rest().await == (Vec::new(), End::Reset),
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_passed_on() {
    let endpoint = Endpoint::script(|number, mut wire| async move {
        wire.exactly(2).await;
        wire.send("ok").await;
        match number {
            0 => assert_eq!(wire.rest().await.1, End::Reset, "the client broke it off"),
            _ => wire.reset(),
        }
    })
    .await;
    let proxy = relay(&[endpoint.address]).start().await;
    let mut client = proxy.wire().await;
    client.send("hi").await;
    client.exactly(2).await;
    client.reset();
    until("the relay to end", || proxy.running.connections() == 0).await;
    let mut client = proxy.wire().await;
    client.send("hi").await;
    assert_eq!(client.rest().await, (b"ok".to_vec(), End::Reset));
    let lines = lines_of(proxy, 2).await;
    let outcomes: BTreeSet<_> = lines.iter().map(|line| line.outcome()).collect();
    assert_eq!(outcomes, BTreeSet::from(["client_gone", "upstream_truncated"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_of_both_sides_ends_it() {
    let endpoint = echo().await;
    let proxy = relay(&[endpoint.address])
        .limits(|limits| limits.relay_idle = Some(Duration::from_millis(100)))
        .start()
        .await;
    let mut wire = proxy.wire().await;
    wire.send("x").await;
    assert_eq!(wire.rest().await.0, b"x");
    assert_eq!(lines_of(proxy, 1).await[0].outcome(), "relay_idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_at_listener_and_endpoint() {
    let endpoint = echo().await;
    let proxy = relay(&[endpoint.address])
        .limits(|limits| limits.max_connections = 2)
        .start()
        .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut wire = proxy.wire().await;
        wire.send("x").await;
        wire.exactly(1).await;
        held.push(wire);
    }
    assert_eq!(proxy.wire().await.rest().await.0, b"");
    held.pop();
    until("a place to be free", || proxy.running.connections() < 2).await;
    let mut again = proxy.wire().await;
    again.send("x").await;
    again.exactly(1).await;

    let proxy = relay(&[endpoint.address])
        .policy(|backend| {
            backend.limits.max_in_flight = 1;
            backend.limits.queue_timeout = Duration::from_millis(30);
        })
        .start()
        .await;
    let mut first = proxy.wire().await;
    first.send("x").await;
    first.exactly(1).await;
    assert!(is_reset(&proxy).await);
    first.finish().await;
    first.rest().await;
    let lines = lines_of(proxy, 2).await;
    let outcomes: BTreeSet<_> = lines.iter().map(|line| line.outcome()).collect();
    assert_eq!(outcomes, BTreeSet::from(["overloaded", "relayed"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_and_ties_are_followed() {
    let (one, other) = (named("one").await, named("other").await);
    let proxy = relay(&[one.address])
        .backend("rest", &[other.address], |_| {})
        .rule(|rule| rule.backends = vec![share("web", 0), share("rest", 1)])
        .start()
        .await;
    for _ in 0..5 {
        assert_eq!(proxy.wire().await.rest().await.0, b"other");
    }
    for by_hash in [true, false] {
        let proxy = relay(&[one.address, other.address])
            .policy(|backend| match by_hash {
                true => backend.balance = Balance::Maglev,
                false => {
                    backend.affinity = Some(Affinity {
                        by: AffinityBy::Source,
                        mode: AffinityMode::Strong,
                    });
                }
            })
            .start()
            .await;
        let mut met = BTreeSet::new();
        for _ in 0..10 {
            met.insert(proxy.wire().await.rest().await.0);
        }
        assert_eq!(met.len(), 1, "one client, one endpoint: {met:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_only_accepts_and_closes_is_set_aside() {
    let good = echo().await;
    let bad = Endpoint::script(|_, mut wire| async move {
        let _ = wire.fill().await;
    })
    .await;
    let proxy = relay(&[good.address, bad.address])
        .policy(|backend| {
            backend.balance = Balance::RoundRobin;
            backend.ejection = Some(tidegate::model::Ejection {
                consecutive_failures: 2,
                ..Default::default()
            });
        })
        .start()
        .await;
    let mut answered = 0;
    for _ in 0..20 {
        let mut wire = proxy.wire().await;
        wire.send("x").await;
        answered += wire.up_to(1).await.map_or(0, |got| got.len());
    }
    assert_eq!((bad.connections(), answered), (2, 18));
    let lines = lines_of(proxy, 20).await;
    let reset = lines.iter().filter(|line| line.outcome() == "upstream_reset");
    assert_eq!(reset.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_relays_up_to_its_deadline() {
    for (patience, outcome, by_itself) in [(20_000, "relayed", true), (50, "drained", false)] {
        let endpoint = echo().await;
        let proxy = relay(&[endpoint.address])
            .settings(|settings| settings.drain.timeout = Duration::from_millis(patience))
            .start()
            .await;
        let address = proxy.address;
        let mut wire = proxy.wire().await;
        wire.send("before").await;
        wire.exactly(6).await;
        let drain = tokio::spawn(proxy.drain());
        if by_itself {
            soon("the listener to close", async {
                while tokio::net::TcpStream::connect(address).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
            wire.send("after").await;
            assert_eq!(wire.exactly(5).await, b"after");
            wire.finish().await;
        }
        wire.rest().await;
        let (ended, lines) = soon("the drain", drain).await.unwrap();
        // The looks at the listener above are connections too.
        let line = lines
            .iter()
            .max_by_key(|line| line.0["request_bytes"].as_u64())
            .unwrap();
        assert_eq!((ended, line.outcome()), (by_itself, outcome));
        assert!(line.0["request_bytes"].as_u64() >= Some(6));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_is_counted_and_where_it_goes_may_change() {
    let (one, other) = (echo().await, echo().await);
    let proxy = relay(&[one.address]).with_admin().start().await;
    let mut old = proxy.wire().await;
    old.send("x").await;
    old.exactly(1).await;
    proxy.set_endpoints("web", &[other.address]).await;
    let mut new = proxy.wire().await;
    new.send("yy").await;
    new.exactly(2).await;
    assert_eq!((one.connections(), other.connections()), (1, 1));
    // What is under way stays where it is.
    old.send("z").await;
    assert_eq!(old.exactly(1).await, b"z");
    drop((old, new));
    until("all to end", || proxy.running.connections() == 0).await;
    let ended = "tidegate_requests_total{backend=\"web\",outcome=\"relayed\",class=\"none\"}";
    assert_eq!(proxy.metric(ended).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_at_once_leave_nothing_behind() {
    let endpoint = echo().await;
    let proxy = relay(&[endpoint.address]).start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200_usize {
        let address = proxy.address;
        tasks.spawn(async move {
            let mut wire = Wire::connect(address).await;
            let sent = pattern(1 + number * 100);
            wire.send(&sent).await;
            assert!(wire.exactly(sent.len()).await == sent);
            match number % 3 {
                0 => drop(wire),
                1 => wire.reset(),
                _ => {
                    wire.finish().await;
                    wire.rest().await;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    until("all to end", || proxy.running.connections() == 0).await;
    assert_eq!(lines_of(proxy, 200).await.len(), 200);
}
