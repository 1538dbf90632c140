//! Priorities, zones, subsets, panic: which part of a backend requests go to.

use std::sync::Arc;
use std::time::Duration;

use tidegate::admin::{Ask, BackendView, View};
use tidegate::model::{ActiveCheck, Balance, CheckKind, Delta, Endpoint as Target, Locality};

use super::support::endpoint::saying;
use super::support::proxy::source;
use super::support::{Endpoint, H1, Proxy, Setup, soon, until};
use super::{addresses, counts, send, several};

/// Starts with endpoints that are made of addresses.
async fn starting(setup: Setup, endpoints: Vec<Target>) -> Proxy {
    let mut setup = setup;
    setup.backends[0].1 = endpoints;
    setup.start().await
}

fn web(proxy: &Proxy) -> BackendView {
    let page = proxy.running.live().backends(&Ask::up_to(100));
    page.items
        .into_iter()
        .find(|backend| backend.name == "web")
        .unwrap()
}

fn picks(proxy: &Proxy) -> [u64; 8] {
    let snapshot = proxy.running.live().snapshot();
    let web = snapshot
        .backends()
        .find(|backend| backend.name.as_str() == "web")
        .unwrap();
    web.metrics.totals().picks
}

async fn send_many(proxy: &Proxy, count: usize) {
    for _ in 0..count {
        assert_eq!(send(proxy, "/", &[]).await.status, 200);
    }
}

fn often() -> ActiveCheck {
    ActiveCheck {
        kind: CheckKind::Tcp,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        healthy_after: 1,
        unhealthy_after: 1,
        port: None,
        before_use: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_priority_takes_over_and_gives_back() {
    let mut endpoints = several(2).await;
    let addresses = addresses(&endpoints);
    let first = Target::at(addresses[0]);
    let second = Target {
        priority: 1,
        ..Target::at(addresses[1])
    };
    let setup = Setup::to(&[]).policy(|backend| backend.check = Some(often()));
    let proxy = starting(setup, vec![second, first]).await;
    send_many(&proxy, 4).await;
    assert_eq!(counts(&endpoints), [4, 0]);
    let told = web(&proxy);
    let why = |told: &BackendView, priority| {
        let mut endpoints = told.endpoints.iter();
        let endpoint = endpoints.find(|endpoint| endpoint.priority == priority).unwrap();
        endpoint.passed_over.clone()
    };
    assert_eq!(why(&told, 0), None);
    assert_eq!(why(&told, 1).as_deref(), Some("priority 1 takes 0 % of requests"));

    endpoints.remove(0).end().await;
    until("the first to be found dead", || why(&web(&proxy), 0).is_some()).await;
    assert_eq!(why(&web(&proxy), 0).as_deref(), Some("active checks go wrong"));
    assert_eq!(why(&web(&proxy), 1), None);
    send_many(&proxy, 3).await;
    assert_eq!(counts(&endpoints), [3]);
    assert_eq!(picks(&proxy)[3], 3, "failover");

    let listener = soon("the port", async {
        loop {
            match tokio::net::TcpListener::bind(addresses[0]).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    let back = Endpoint::serve_on(listener, H1, saying(""));
    until("the first to be back", || why(&web(&proxy), 0).is_none()).await;
    let before = back.requests();
    send_many(&proxy, 3).await;
    assert_eq!(back.requests() - before, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_stay_in_the_zone_as_settings_and_hints_say() {
    for locality in [Locality::Zone, Locality::Hints, Locality::Off] {
        let endpoints = several(4).await;
        let zones = ["a", "b", "a", "c"];
        let targets = addresses(&endpoints)
            .into_iter()
            .zip(zones)
            .map(|(address, zone)| Target {
                zone: Some(zone.into()),
                // Meant for another zone than they are in.
                hints: Some(Arc::new([Arc::from(if zone == "b" { "a" } else { "b" })]) as Arc<[Arc<str>]>),
                ..Target::at(address)
            })
            .collect();
        let setup = Setup::to(&[])
            .settings(|settings| settings.zone = Some("a".to_owned()))
            .policy(|backend| {
                backend.balance = Balance::RoundRobin;
                backend.locality = locality;
            });
        let proxy = starting(setup, targets).await;
        send_many(&proxy, 8).await;
        let got: Vec<bool> = counts(&endpoints).iter().map(|count| *count > 0).collect();
        let expected = match locality {
            Locality::Zone => [true, false, true, false],
            Locality::Hints => [false, true, false, false],
            Locality::Off => [true; 4],
        };
        assert_eq!(got, expected, "{locality:?}");
        let told = web(&proxy);
        let far = told.endpoints.iter().filter(|endpoint| {
            endpoint.passed_over.as_deref() == Some("not near; those of priority 0 take 0 %")
        });
        assert_eq!(far.count(), expected.iter().filter(|near| !**near).count());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_endpoints_nearby_let_requests_spill_over() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let near = Endpoint::serve(H1, move |_| {
        let gate = Arc::clone(&waits);
        async move {
            let _ = gate.acquire().await;
            http::Response::new(super::support::full(""))
        }
    })
    .await;
    let far = several(1).await;
    let targets = [(near.address, "a"), (far[0].address, "b")]
        .map(|(address, zone)| Target {
            zone: Some(zone.into()),
            ..Target::at(address)
        })
        .into();
    let setup = Setup::to(&[])
        .settings(|settings| settings.zone = Some("a".to_owned()))
        .policy(|backend| {
            backend.balance = Balance::Random;
            backend.locality = Locality::Zone;
            backend.limits.max_in_flight = 1;
        });
    let proxy = starting(setup, targets).await;
    let mut client = proxy.client(super::support::Down::H1).await;
    let waiting = tokio::spawn(async move { client.get("/").await.status });
    until("the near one to be busy", || near.requests() == 1).await;
    send_many(&proxy, 3).await;
    assert_eq!((near.requests(), far[0].requests()), (1, 3));
    assert_eq!(picks(&proxy)[4], 3, "spill-over");
    gate.add_permits(10);
    assert_eq!(soon("the first answer", waiting).await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_uses_its_subset_and_keeps_it() {
    let endpoints = several(6).await;
    let proxy = Setup::to(&addresses(&endpoints))
        .policy(|backend| {
            backend.balance = Balance::RoundRobin;
            backend.subset = Some(2);
        })
        .start()
        .await;
    send_many(&proxy, 8).await;
    let used: Vec<usize> = (0..6).filter(|nth| counts(&endpoints)[*nth] > 0).collect();
    assert_eq!(used.len(), 2);
    let told = web(&proxy);
    let left_out = told
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.passed_over.as_deref() == Some("not in the subset of this process"));
    assert_eq!(left_out.count(), 4);

    // One that it does not use goes.
    let gone = (0..6).find(|nth| !used.contains(nth)).unwrap();
    let mut delta = Delta::default();
    let left = addresses(&endpoints)
        .into_iter()
        .enumerate()
        .filter(|(nth, _)| *nth != gone);
    let left: Vec<Target> = left.map(|(_, address)| Target::at(address)).collect();
    delta.endpoints.insert("web".into(), Some(left.into()));
    proxy.running.change(&source(), delta).await;
    send_many(&proxy, 4).await;
    let now: Vec<usize> = (0..6).filter(|nth| counts(&endpoints)[*nth] > 0).collect();
    assert_eq!(now, used);
}

#[tokio::test(flavor = "multi_thread")]
async fn panic_serves_what_checks_refuse_unless_it_is_off() {
    for percent in [50, 0] {
        let endpoints = several(2).await;
        let proxy = Setup::to(&addresses(&endpoints))
            .policy(|backend| {
                backend.panic_percent = percent;
                // Nobody listens there: all checks go wrong.
                backend.check = Some(ActiveCheck {
                    port: Some(1),
                    ..often()
                });
            })
            .start()
            .await;
        until("all to be found sick", || web(&proxy).endpoints_ready == 0).await;
        assert_eq!(web(&proxy).panic, percent > 0);
        let answer = send(&proxy, "/", &[]).await;
        assert_eq!(answer.status.as_u16(), if percent > 0 { 200 } else { 503 });
        let snapshot = proxy.running.live().snapshot();
        let backend = snapshot
            .backends()
            .find(|backend| backend.name.as_str() == "web")
            .unwrap();
        if percent > 0 {
            until("it to be counted", || backend.metrics.totals().panics == 1).await;
        } else {
            assert_eq!(backend.metrics.totals().panics, 0);
        }
    }
}
