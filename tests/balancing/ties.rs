//! Hashes and affinity: requests that belong together.

use std::collections::BTreeSet;

use http::HeaderName;
use tidegate::model::{Affinity, AffinityBy, AffinityCookie, AffinityMode, Balance, HashKey};

use super::support::{Setup, until};
use super::{addresses, counts, send, several, who};

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_of_a_field_decides_and_a_lost_endpoint_moves_only_its_own() {
    for balance in [Balance::RingHash, Balance::Maglev] {
        let endpoints = several(4).await;
        let proxy = Setup::to(&addresses(&endpoints))
            .policy(|backend| {
                backend.balance = balance;
                backend.hash = HashKey::parse("header:x-user").unwrap();
            })
            .start()
            .await;
        let users: Vec<String> = (0..24).map(|user| format!("user-{user}")).collect();
        let mut first = Vec::new();
        for user in &users {
            let (at, _) = who(&endpoints, async {
                for _ in 0..3 {
                    send(&proxy, "/", &[("x-user", user)]).await;
                }
            })
            .await;
            assert_eq!(at.len(), 1, "{balance:?} {user}");
            first.extend(at);
        }
        let used: BTreeSet<usize> = first.iter().copied().collect();
        assert!(used.len() >= 3, "{balance:?}: {used:?}");

        let left: Vec<_> = addresses(&endpoints).into_iter().skip(1).collect();
        proxy.set_endpoints("web", &left).await;
        let mut moved = 0;
        for (user, before) in users.iter().zip(&first) {
            let (at, _) = who(&endpoints, send(&proxy, "/", &[("x-user", user)])).await;
            assert!(!at.contains(&0));
            moved += usize::from(*before != 0 && !at.contains(before));
        }
        // On a ring none; in Maglev's table a few.
        let may_move = if balance == Balance::RingHash { 0 } else { 6 };
        assert!(moved <= may_move, "{balance:?}: {moved}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_keeps_a_client_at_its_endpoint_until_that_is_gone() {
    let endpoints = several(3).await;
    let proxy = Setup::to(&addresses(&endpoints))
        .policy(|backend| {
            backend.balance = Balance::RoundRobin;
            backend.affinity = Some(Affinity {
                by: AffinityBy::Cookie(AffinityCookie {
                    name: "route".into(),
                    ..AffinityCookie::default()
                }),
                mode: AffinityMode::Strong,
            });
        })
        .start()
        .await;
    let (at, answer) = who(&endpoints, send(&proxy, "/", &[])).await;
    let set = answer.get("set-cookie").unwrap().to_owned();
    let (pair, attributes) = set.split_once(';').unwrap();
    assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Lax");
    let value = pair.strip_prefix("route=").unwrap();
    assert!(
        value.len() == 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{value}"
    );

    let cookie = format!("other=1; {pair}");
    let (again, _) = who(&endpoints, async {
        for _ in 0..6 {
            let answer = send(&proxy, "/", &[("cookie", &cookie)]).await;
            assert_eq!(answer.get("set-cookie"), None, "it knows already");
        }
    })
    .await;
    assert_eq!(at, again);
    let (all, _) = who(&endpoints, async {
        for _ in 0..6 {
            send(&proxy, "/", &[]).await;
        }
    })
    .await;
    assert_eq!(all.len(), 3, "others are not tied");

    let gone = *at.first().unwrap();
    let left: Vec<_> = addresses(&endpoints)
        .into_iter()
        .enumerate()
        .filter(|(nth, _)| *nth != gone)
        .map(|(_, address)| address)
        .collect();
    proxy.set_endpoints("web", &left).await;
    let (moved, answer) = who(&endpoints, send(&proxy, "/", &[("cookie", &cookie)])).await;
    assert!(!moved.contains(&gone));
    let set = answer.get("set-cookie").unwrap();
    assert!(!set.starts_with(pair), "{set}");

    let backend = proxy.running.live().snapshot();
    let backend = backend
        .backends()
        .find(|backend| backend.name.as_str() == "web")
        .unwrap();
    until("the picks to be counted", || {
        let picks = backend.metrics.totals().picks;
        picks[1..3] == [6, 1]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn affinity_by_a_field_leaves_those_without_it_to_the_policy() {
    let endpoints = several(3).await;
    let proxy = Setup::to(&addresses(&endpoints))
        .policy(|backend| {
            backend.balance = Balance::RoundRobin;
            backend.affinity = Some(Affinity {
                by: AffinityBy::Header(HeaderName::from_static("x-user")),
                mode: AffinityMode::Strong,
            });
        })
        .start()
        .await;
    let (ann, answer) = who(&endpoints, async {
        send(&proxy, "/", &[("x-user", "ann")]).await;
        send(&proxy, "/", &[("x-user", "ann")]).await
    })
    .await;
    assert_eq!((ann.len(), answer.get("set-cookie")), (1, None));
    let (all, _) = who(&endpoints, async {
        for _ in 0..3 {
            send(&proxy, "/", &[]).await;
        }
    })
    .await;
    assert_eq!(all.len(), 3);
    assert_eq!(counts(&endpoints).iter().sum::<usize>(), 5);
}
