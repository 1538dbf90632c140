//! The metrics: how each is called, what it means, and how its samples are taken. The order is that of a scrape.

use prometheus::proto::{Metric, MetricType};

use super::Reading;
use super::samples::{
    counter, gauge, known, named_backends, of_backends, of_backends_with_traffic, of_kubernetes, of_limits,
    of_listeners,
};
use crate::telemetry::HandshakeEnd;
use crate::telemetry::detection::Detected;
use crate::telemetry::metrics::{Acme, CRITICALITIES, EJECTIONS, Injection, ListenerTotals, PICKS};
use crate::telemetry::mtls::Came;

/// One metric: how it is called, and how its samples are taken from a reading.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    pub(super) help: &'static str,
    pub(super) labels: &'static [&'static str],
    pub(super) samples: fn(&Reading) -> Vec<Metric>,
}

/// All of them.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "tidegate_requests_total",
        kind: MetricType::COUNTER,
        help: "Ended exchanges, by why they ended and the class of the status sent.",
        labels: &["backend", "outcome", "class"],
        samples: |reading| {
            reading
                .totals
                .backends
                .iter()
                .flat_map(|backend| {
                    backend
                        .exchanges
                        .iter()
                        .filter(|(outcome, class, count)| {
                            // What never happened is left out, but a rate needs a first zero for the usual end.
                            *count > 0
                                || (!backend.name.is_empty()
                                    && outcome.code() == "answered"
                                    && *class == "2xx")
                        })
                        .map(|(outcome, class, count)| {
                            let labels = [
                                ("backend", &*backend.name),
                                ("outcome", outcome.code()),
                                ("class", class),
                            ];
                            counter(&labels, count as f64)
                        })
                })
                .collect()
        },
    },
    Family {
        name: "tidegate_request_duration_seconds",
        kind: MetricType::HISTOGRAM,
        help: "From the request's head to the response's end.",
        labels: &["backend"],
        samples: |reading| of_backends_with_traffic(reading, |backend| &backend.duration),
    },
    Family {
        name: "tidegate_upstream_head_seconds",
        kind: MetricType::HISTOGRAM,
        help: "From the request's head to the head of an endpoint's response, all attempts together.",
        labels: &["backend"],
        samples: |reading| of_backends_with_traffic(reading, |backend| &backend.head),
    },
    Family {
        name: "tidegate_request_bytes_total",
        kind: MetricType::COUNTER,
        help: "Bytes of requests' bodies.",
        labels: &["backend"],
        samples: |reading| of_backends(reading, |backend| backend.request_bytes),
    },
    Family {
        name: "tidegate_response_bytes_total",
        kind: MetricType::COUNTER,
        help: "Bytes of responses' bodies.",
        labels: &["backend"],
        samples: |reading| of_backends(reading, |backend| backend.response_bytes),
    },
    Family {
        name: "tidegate_retries_total",
        kind: MetricType::COUNTER,
        help: "Attempts after the first.",
        labels: &["backend"],
        samples: |reading| of_backends(reading, |backend| backend.retries),
    },
    Family {
        name: "tidegate_retries_denied_total",
        kind: MetricType::COUNTER,
        help: "Retries that the budget did not allow.",
        labels: &["backend"],
        samples: |reading| of_backends(reading, |backend| backend.retries_denied),
    },
    Family {
        name: "tidegate_hedges_total",
        kind: MetricType::COUNTER,
        help: "Second attempts beside those that took unusually long.",
        labels: &["backend"],
        samples: |reading| of_backends(reading, |backend| backend.hedges),
    },
    Family {
        name: "tidegate_hedges_won_total",
        kind: MetricType::COUNTER,
        help: "Second attempts whose answer was the one that counted.",
        labels: &["backend"],
        samples: |reading| of_backends(reading, |backend| backend.hedges_won),
    },
    Family {
        name: "tidegate_hedges_denied_total",
        kind: MetricType::COUNTER,
        help: "Second attempts that the budget did not allow.",
        labels: &["backend"],
        samples: |reading| of_backends(reading, |backend| backend.hedges_denied),
    },
    Family {
        name: "tidegate_upstream_connections_total",
        kind: MetricType::COUNTER,
        help: "How attempts came by a connection to an endpoint: made, reused, or failed to make.",
        labels: &["backend", "how"],
        samples: |reading| {
            named_backends(reading)
                .flat_map(|backend| {
                    [
                        ("made", backend.connections_made),
                        ("reused", backend.connections_reused),
                        ("failed", backend.connections_failed),
                    ]
                    .map(|(how, count)| counter(&[("backend", &*backend.name), ("how", how)], count as f64))
                })
                .collect()
        },
    },
    Family {
        name: "tidegate_picks_total",
        kind: MetricType::COUNTER,
        help: "Endpoints chosen, by why: by the policy, or otherwise.",
        labels: &["backend", "how"],
        samples: |reading| {
            named_backends(reading)
                .flat_map(|backend| {
                    let picks = PICKS.iter().zip(backend.picks);
                    picks.filter(|(_, count)| *count > 0).map(|(how, count)| {
                        counter(&[("backend", &*backend.name), ("how", how)], count as f64)
                    })
                })
                .collect()
        },
    },
    Family {
        name: "tidegate_load_reports_total",
        kind: MetricType::COUNTER,
        help: "What endpoints said of their load in responses, by whether it could be read.",
        labels: &["backend", "result"],
        samples: |reading| {
            named_backends(reading)
                .flat_map(|backend| {
                    [
                        ("read", backend.load_reports),
                        ("refused", backend.load_reports_refused),
                    ]
                    .into_iter()
                    // Most endpoints say nothing.
                    .filter(|(_, count)| *count > 0)
                    .map(|(result, count)| {
                        counter(&[("backend", &*backend.name), ("result", result)], count as f64)
                    })
                })
                .collect()
        },
    },
    Family {
        name: "tidegate_shed_total",
        kind: MetricType::COUNTER,
        help: "Requests refused because their backend was near its limit and others matter more, by how much they matter.",
        labels: &["backend", "criticality"],
        samples: |reading| {
            named_backends(reading)
                .flat_map(|backend| {
                    let limited = backend.concurrency.is_some();
                    let sheds = CRITICALITIES.iter().zip(backend.sheds);
                    // Where nothing is limited and nothing was shed there is nothing to tell.
                    sheds
                        .filter(move |(_, count)| limited || *count > 0)
                        .map(|(class, count)| {
                            counter(
                                &[("backend", &*backend.name), ("criticality", class)],
                                count as f64,
                            )
                        })
                })
                .collect()
        },
    },
    Family {
        name: "tidegate_concurrency_limit",
        kind: MetricType::GAUGE,
        help: "Requests that may wait for their response's head at once, where that is limited; looked at ten times a second.",
        labels: &["backend"],
        samples: |reading| of_limits(reading, |now| now.limit),
    },
    Family {
        name: "tidegate_concurrency_in_flight",
        kind: MetricType::GAUGE,
        help: "Requests that wait for their response's head, where that is limited; looked at ten times a second.",
        labels: &["backend"],
        samples: |reading| of_limits(reading, |now| now.in_flight),
    },
    Family {
        name: "tidegate_concurrency_queued",
        kind: MetricType::GAUGE,
        help: "Requests that wait for their turn, where that is limited; looked at ten times a second.",
        labels: &["backend"],
        samples: |reading| of_limits(reading, |now| now.queued),
    },
    Family {
        name: "tidegate_ejections_total",
        kind: MetricType::COUNTER,
        help: "Endpoints set aside for what they did to requests or for what active checks say, by why.",
        labels: &["backend", "reason"],
        samples: |reading| {
            named_backends(reading)
                .flat_map(|backend| {
                    EJECTIONS
                        .iter()
                        .zip(backend.ejections_by)
                        // What never happened is left out, but a rate needs a first zero for the usual reasons.
                        .filter(|(reason, count)| *count > 0 || ["failures", "check"].contains(*reason))
                        .map(|(reason, count)| {
                            counter(&[("backend", &*backend.name), ("reason", reason)], count as f64)
                        })
                })
                .collect()
        },
    },
    Family {
        name: "tidegate_panics_total",
        kind: MetricType::COUNTER,
        help: "Times that so few endpoints were available that availability was ignored; looked at once a second.",
        labels: &["backend"],
        samples: |reading| of_backends(reading, |backend| backend.panics),
    },
    Family {
        name: "tidegate_requests_in_flight",
        kind: MetricType::GAUGE,
        help: "Exchanges that have begun and not ended.",
        labels: &[],
        samples: |reading| vec![gauge(&[], reading.totals.in_flight as f64)],
    },
    Family {
        name: "tidegate_connections",
        kind: MetricType::GAUGE,
        help: "Connections of clients that are open.",
        labels: &["listener"],
        samples: |reading| of_listeners(reading, gauge, ListenerTotals::open),
    },
    Family {
        name: "tidegate_connections_total",
        kind: MetricType::COUNTER,
        help: "Connections of clients that were taken.",
        labels: &["listener"],
        samples: |reading| of_listeners(reading, counter, |listener| listener.opened),
    },
    Family {
        name: "tidegate_connections_refused_total",
        kind: MetricType::COUNTER,
        help: "Connections of clients that were closed at once, because a bound was reached.",
        labels: &["listener"],
        samples: |reading| of_listeners(reading, counter, |listener| listener.refused),
    },
    Family {
        name: "tidegate_connections_handed_off_total",
        kind: MetricType::COUNTER,
        help: "Connections of clients that one worker gave to another.",
        labels: &["listener"],
        samples: |reading| of_listeners(reading, counter, |listener| listener.handed_off),
    },
    Family {
        name: "tidegate_tls_handshakes_total",
        kind: MetricType::COUNTER,
        help: "Ended TLS handshakes of clients, by how they ended.",
        labels: &["listener", "outcome"],
        samples: |reading| {
            let listeners = reading.totals.listeners.iter();
            listeners
                .flat_map(|listener| {
                    HandshakeEnd::ALL
                        .iter()
                        .map(|end| (end, listener.handshakes[end.index()]))
                        // What never happened is left out; so a listener without TLS has none.
                        .filter(|(_, count)| *count > 0)
                        .map(|(end, count)| {
                            let labels = [("listener", &*listener.name), ("outcome", end.code())];
                            counter(&labels, count as f64)
                        })
                })
                .collect()
        },
    },
    Family {
        name: "tidegate_mtls_connections_total",
        kind: MetricType::COUNTER,
        help: "Connections to listeners that ask for mTLS, by how they came.",
        labels: &["listener", "came"],
        samples: |reading| {
            let listeners = reading.totals.listeners.iter();
            listeners
                .flat_map(|listener| {
                    Came::ALL
                        .iter()
                        .map(|came| (came, listener.came[came.index()]))
                        // Listeners that do not ask have none.
                        .filter(|(_, count)| *count > 0)
                        .map(|(came, count)| {
                            let labels = [("listener", &*listener.name), ("came", came.code())];
                            counter(&labels, count as f64)
                        })
                })
                .collect()
        },
    },
    Family {
        name: "tidegate_detected_protocols_total",
        kind: MetricType::COUNTER,
        help: "Redirected connections, by what was found in their first bytes.",
        labels: &["listener", "protocol"],
        samples: |reading| {
            let listeners = reading.totals.listeners.iter();
            listeners
                .flat_map(|listener| {
                    Detected::ALL
                        .iter()
                        .map(|found| (found, listener.detected[found.index()]))
                        // Other listeners than those of redirected connections have none.
                        .filter(|(_, count)| *count > 0)
                        .map(|(found, count)| {
                            let labels = [("listener", &*listener.name), ("protocol", found.code())];
                            counter(&labels, count as f64)
                        })
                })
                .collect()
        },
    },
    Family {
        name: "tidegate_reloads_total",
        kind: MetricType::COUNTER,
        help: "Configurations read again, by whether they were taken.",
        labels: &["result"],
        samples: |reading| {
            vec![
                counter(&[("result", "ok")], reading.totals.reloads_ok as f64),
                counter(&[("result", "failed")], reading.totals.reloads_failed as f64),
            ]
        },
    },
    Family {
        name: "tidegate_last_reload_ok",
        kind: MetricType::GAUGE,
        help: "1 if the last configuration that was read again was taken, else 0.",
        labels: &[],
        samples: |reading| vec![gauge(&[], f64::from(u8::from(reading.totals.last_reload_ok)))],
    },
    Family {
        name: "tidegate_settings_waiting",
        kind: MetricType::GAUGE,
        help: "Settings that differ in the file from those in use, and take effect at the next start.",
        labels: &[],
        samples: |reading| vec![gauge(&[], reading.totals.settings_waiting as f64)],
    },
    Family {
        name: "tidegate_kubernetes_synced",
        kind: MetricType::GAUGE,
        help: "1 once the Kubernetes cluster was read whole and is live, else 0.",
        labels: &[],
        samples: |reading| of_kubernetes(reading, gauge, |now| u64::from(now.synced)),
    },
    Family {
        name: "tidegate_kubernetes_away",
        kind: MetricType::GAUGE,
        help: "Kinds of Kubernetes objects that cannot be followed at the moment; what is known of them stays.",
        labels: &[],
        samples: |reading| of_kubernetes(reading, gauge, |now| now.away),
    },
    Family {
        name: "tidegate_kubernetes_events_total",
        kind: MetricType::COUNTER,
        help: "Changes of single objects that the Kubernetes API server sent.",
        labels: &[],
        samples: |reading| of_kubernetes(reading, counter, |now| now.events),
    },
    Family {
        name: "tidegate_kubernetes_lists_total",
        kind: MetricType::COUNTER,
        help: "Lists of objects that were read whole from the Kubernetes API server.",
        labels: &[],
        samples: |reading| of_kubernetes(reading, counter, |now| now.lists),
    },
    Family {
        name: "tidegate_kubernetes_failures_total",
        kind: MetricType::COUNTER,
        help: "Questions to the Kubernetes API server that failed.",
        labels: &[],
        samples: |reading| of_kubernetes(reading, counter, |now| now.failures),
    },
    Family {
        name: "tidegate_identity_expiry_timestamp_seconds",
        kind: MetricType::GAUGE,
        help: "The end of the certificate that says who this process is towards other sidecars, in seconds since 1970.",
        labels: &[],
        samples: |reading| {
            let ends = reading.totals.identity_ends.iter();
            ends.map(|ends| gauge(&[], *ends as f64)).collect()
        },
    },
    Family {
        name: "tidegate_acme_certificate_expiry_timestamp_seconds",
        kind: MetricType::GAUGE,
        help: "The end of the certificate that was got by ACME, in seconds since 1970; 0: there is none yet.",
        labels: &["name"],
        samples: |reading| {
            let certificates = reading.totals.acme.iter().flat_map(|acme| &acme.certificates);
            certificates
                .map(|(name, end)| gauge(&[("name", name)], end.unwrap_or(0) as f64))
                .collect()
        },
    },
    Family {
        name: "tidegate_acme_orders_total",
        kind: MetricType::COUNTER,
        help: "Orders for certificates by ACME that have ended.",
        labels: &["result"],
        samples: |reading| {
            let counts = |acme: &Acme| [("ok", acme.orders_ok), ("failed", acme.orders_failed)];
            let counts = reading.totals.acme.iter().flat_map(counts);
            counts
                .map(|(result, count)| counter(&[("result", result)], count as f64))
                .collect()
        },
    },
    Family {
        name: "tidegate_inject_reviews_total",
        kind: MetricType::COUNTER,
        help: "Pods that the API server asked about before they were made, by what became of them.",
        labels: &["result"],
        samples: |reading| {
            let counts = reading.totals.injections.iter().flat_map(|all| {
                let codes = Injection::ALL.iter().map(|one| one.code());
                codes.zip(all.reviews)
            });
            counts
                .map(|(code, count)| counter(&[("result", code)], count as f64))
                .collect()
        },
    },
    Family {
        name: "tidegate_inject_certificate_expiry_timestamp_seconds",
        kind: MetricType::GAUGE,
        help: "The end of the certificate that the API server is shown, in seconds since 1970; 0: there is none yet.",
        labels: &[],
        samples: |reading| {
            let now = reading.totals.injections.iter();
            now.map(|all| gauge(&[], all.certificate_ends.unwrap_or(0) as f64))
                .collect()
        },
    },
    Family {
        name: "tidegate_snapshot_generation",
        kind: MetricType::GAUGE,
        help: "The number of the live snapshot.",
        labels: &[],
        samples: |reading| vec![gauge(&[], reading.totals.snapshot_generation as f64)],
    },
    Family {
        name: "tidegate_snapshot_published_timestamp_seconds",
        kind: MetricType::GAUGE,
        help: "When the live snapshot was published, in seconds since 1970; 0: never.",
        labels: &[],
        samples: |reading| vec![gauge(&[], reading.totals.snapshot_published_unix_us as f64 / 1e6)],
    },
    Family {
        name: "tidegate_snapshot_rejects",
        kind: MetricType::GAUGE,
        help: "What is left out: objects, and settings that wait for a restart.",
        labels: &[],
        samples: |reading| vec![gauge(&[], reading.totals.snapshot_rejects as f64)],
    },
    Family {
        name: "tidegate_access_log_dropped_total",
        kind: MetricType::COUNTER,
        help: "Lines of the access log thrown away, because the writer could not keep up or failed.",
        labels: &[],
        samples: |reading| vec![counter(&[], reading.totals.access_log_dropped as f64)],
    },
    Family {
        name: "tidegate_build_info",
        kind: MetricType::GAUGE,
        help: "1, with the version.",
        labels: &["version"],
        samples: |_| vec![gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)],
    },
    Family {
        name: "process_cpu_seconds_total",
        kind: MetricType::COUNTER,
        help: "Processor time used, user and system.",
        labels: &[],
        samples: |reading| known(reading.process.cpu_seconds, counter),
    },
    Family {
        name: "process_resident_memory_bytes",
        kind: MetricType::GAUGE,
        help: "Memory in use.",
        labels: &[],
        samples: |reading| known(reading.process.resident_bytes.map(|bytes| bytes as f64), gauge),
    },
    Family {
        name: "process_open_fds",
        kind: MetricType::GAUGE,
        help: "Open file descriptors.",
        labels: &[],
        samples: |reading| known(reading.process.open_fds.map(|fds| fds as f64), gauge),
    },
    Family {
        name: "process_max_fds",
        kind: MetricType::GAUGE,
        help: "File descriptors that may be open.",
        labels: &[],
        samples: |reading| known(reading.process.max_fds.map(|fds| fds as f64), gauge),
    },
    Family {
        name: "process_threads",
        kind: MetricType::GAUGE,
        help: "Threads.",
        labels: &[],
        samples: |reading| known(reading.process.threads.map(|threads| threads as f64), gauge),
    },
    Family {
        name: "process_start_time_seconds",
        kind: MetricType::GAUGE,
        help: "When the process started, in seconds since 1970.",
        labels: &[],
        samples: |reading| known(reading.process.started_unix_seconds, gauge),
    },
];
