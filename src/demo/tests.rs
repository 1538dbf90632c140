//! Tests of the demo as a whole: the story, the run of `--once`, what is left behind.

use std::collections::BTreeMap;

use super::sample::EndpointSample;
use super::*;

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn endpoint(id: u64, requests: u64) -> EndpointSample {
    EndpointSample {
        id,
        label: Some(format!("pod-{id}")),
        draining: false,
        ejected_for: None,
        ejections: 0,
        latency_us: Some(3000),
        in_flight: 1,
        requests,
        failures: 0,
    }
}

fn sample(endpoints: &[(u16, EndpointSample)]) -> Sample {
    Sample {
        endpoints: endpoints
            .iter()
            .map(|(port, endpoint)| (address(*port), endpoint.clone()))
            .collect(),
        ..Sample::default()
    }
}

#[test]
fn the_table_has_the_story_s_pods_and_whatever_else_the_proxy_has() {
    let mut role = Role::default();
    role.address = Some(address(1));
    let roles = BTreeMap::from([("checkout-1", role), ("checkout-6", Role::default())]);
    let first = sample(&[(1, endpoint(1, 100)), (2, endpoint(2, 900))]);
    // The address 2 has become another endpoint: what the one before got does not count.
    let last = sample(&[(1, endpoint(1, 160)), (2, endpoint(3, 40))]);
    let rows = table(&roles, &first, &last, 2.0);
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (&*row.name, row.pod, row.standing, row.per_second, row.share))
        .collect();
    assert_eq!(
        seen,
        [
            ("checkout-1", "gone", Standing::InUse, 30.0, 0.6),
            ("checkout-6", "gone", Standing::Unlisted, 0.0, 0.0),
            ("pod-3", "?", Standing::InUse, 20.0, 0.4),
        ]
    );
    assert!(
        table(&roles, &last, &last, 0.0)
            .iter()
            .all(|row| row.per_second == 0.0)
    );
}

#[test]
fn events_say_what_came_of_a_step() {
    let step = Step::Weights { stable: 80, next: 20 };
    for (done, expected) in [
        (Done::Plainly, "HTTPRoute: weights 80 : 20"),
        (
            Done::Live(Duration::from_micros(9_200)),
            "HTTPRoute: weights 80 : 20; live after 9.2ms",
        ),
        (Done::NotLive, "HTTPRoute: weights 80 : 20; not live yet"),
        (
            Done::LeftAlone,
            "(not done, the file is yours now) HTTPRoute: weights 80 : 20",
        ),
    ] {
        assert_eq!(event(Duration::ZERO, step, done).text, expected);
    }
}

/// The whole demo with real sockets: the proxy follows the folder, and what a step says is so when it returns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_follows_the_folder_and_no_request_fails() {
    let options = Options {
        port: 0,
        admin: None,
        rate: 200,
        workers: Some(1),
        keep: false,
    };
    let mut stage = Stage::open(&options).await.unwrap();
    let folder = stage.folder().to_owned();
    let labels = |stage: &Stage| -> Vec<String> {
        let sample = stage.sample();
        let mut labels: Vec<_> = sample
            .endpoints
            .values()
            .filter_map(|e| e.label.clone())
            .collect();
        labels.sort();
        labels
    };
    assert_eq!(labels(&stage), story::FIRST_CAST);
    for step in [
        Step::Start("checkout-6"),
        Step::Terminate("checkout-1"),
        Step::Remove("checkout-1"),
        Step::Weights { stable: 0, next: 100 },
    ] {
        let done = stage.perform(step).await.unwrap();
        assert!(matches!(done, Done::Live(_)), "{step}: {done:?}");
    }
    assert_eq!(
        labels(&stage),
        [
            "checkout-2",
            "checkout-3",
            "checkout-4",
            "checkout-5",
            "checkout-6",
            "checkout-v2"
        ]
    );
    // All requests go to the canary now; those that were on their way are given time.
    let asked = |stage: &Stage, pod: &str| stage.roles()[pod].requests();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stable = asked(&stage, "checkout-2");
    let next = asked(&stage, story::NEXT_POD);
    while asked(&stage, story::NEXT_POD) < next + 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(asked(&stage, "checkout-2"), stable);

    // Someone edits the route: the story leaves it alone from then on.
    std::fs::write(folder.join(folder::ROUTE_FILE), folder::route(1, 1) + "# mine\n").unwrap();
    let step = Step::Weights { stable: 100, next: 0 };
    assert_eq!(stage.perform(step).await.unwrap(), Done::LeftAlone);

    let ending = stage.close().await;
    assert_eq!(ending.tally.failures, 0);
    assert_eq!((ending.changes, ending.kept), (4, None));
    assert!(!folder.exists());
}
