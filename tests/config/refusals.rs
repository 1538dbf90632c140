//! Every refusal and every warning, with its exact place, message, hint and related place.

use super::complaints;

/// Which part of a file is replaced, or `raw` for the whole; with what; what is said about it.
type Row = (&'static str, &'static str, &'static [&'static str]);

#[test]
fn every_mistake_is_told_with_its_place() {
    for (part, with, expected) in REFUSALS {
        let text = if *part == "raw" {
            (*with).to_owned()
        } else {
            good_but(part, with)
        };
        assert_eq!(complaints(&text), *expected, "{text}");
    }
}

#[test]
fn the_file_around_the_mistakes_is_good() {
    assert_eq!(complaints(&good_but("top", "")), [""; 0]);
}

/// A good file with one part replaced.
fn good_but(part: &str, with: &str) -> String {
    let base = [
        ("top", ""),
        ("listener", "address: \":80\""),
        ("route", "to: web"),
        ("backend", "endpoints: [\"10.0.0.1:1\"]"),
    ];
    let get = |name: &str| {
        if name == part {
            with.to_owned()
        } else {
            base.iter().find(|(key, _)| *key == name).unwrap().1.to_owned()
        }
    };
    format!(
        "listeners: {{http: {{{}}}}}\nroutes:\n- {{{}}}\nbackends: {{web: {{{}}}}}\n{}",
        get("listener"),
        get("route"),
        get("backend"),
        get("top"),
    )
}

const REFUSALS: &[Row] = &[
    // Redirected connections
    (
        "raw",
        "listeners: {out: {address: \":4140\", transparent: outbound, protocol: http, hostname: a.b}}\n",
        &[
            "1:70: what is spoken on redirected connections is seen from their first bytes (leave protocol out; see limits.opaque_ports) [redirected here: 1:50]",
            "1:86: redirected connections go where their clients wanted to go (leave it out) [redirected here: 1:50]",
        ],
    ),
    (
        "raw",
        "listeners: {out: {address: \":4140\", transparent: outbound, limits: {opaque_ports: [25, 0, 65536]}}}\n",
        &[
            "1:88: 0 is no port from 1 to 65535",
            "1:91: 65536 is no port from 1 to 65535",
        ],
    ),
    (
        "raw",
        "listeners: {out: {address: \":4140\", transparent: outbound}}\nroutes: [{listeners: [out], to: \"10.0.0.1:1\"}]\n",
        &[
            "2:23: no route is asked on \"out\", where redirected connections go where their clients wanted to go (leave it out; see virtual_addresses of backends)",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], virtual_addresses: ["10.96.0.1:80", "10.96.0.1:80", "10.96.0.1"]"#,
        &[
            "4:81: 10.96.0.1:80 is the virtual address of one backend (take it from one of them) [first here: 4:65]",
            "4:97: \"10.96.0.1\" is not the address of an endpoint (a port is missing: \"10.96.0.1:PORT\")",
        ],
    ),
    // TLS (see tls.rs)
    (
        "listener",
        r#"address: ":80", protocols: [h1, h2]"#,
        &[
            "1:47: h2 needs TLS, and this listener has none (write h2c for HTTP/2 in clear text, or give it tls: {certificates: [..]})",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], protocol: h2"#,
        &[
            "4:55: h2 needs TLS, and this backend has none (write h2c for HTTP/2 in clear text, or give it tls: {hostname: ..})",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], protocol: auto"#,
        &[
            "4:55: auto needs TLS, where endpoints say what they speak (write h1 or h2c, or give it tls: {hostname: ..})",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], tls: {}"#,
        &[r#"4:50: "hostname" is missing in tls"#],
    ),
    (
        "listener",
        r#"address: ":80", tls: {}"#,
        &[
            "1:41: TLS needs a certificate (write one: certificates: [{cert: tls.crt, key: tls.key}], or names that are left to ACME: acme: {names: [..]})",
        ],
    ),
    // Admission, and bounds of backends
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], concurrency: 0, concurrency_shape: {min: 5}, criticality_field: "a b""#,
        &[
            r#"4:58: "0" is not a number of requests from 1 to 1000000 (write it like 200, or adaptive, or none)"#,
            r#"4:109: "a b" is not the name of a field"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], concurrency: adaptiv"#,
        &[
            r#"4:58: "adaptiv" is not a number of requests from 1 to 1000000 (write it like 200, or adaptive, or none)"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], concurrency: adaptive, concurrency_shape: {min: 500, max: 200, tolerance: none}"#,
        &[
            r#"4:93: min (500) is more than max (200)"#,
            r#"4:119: a limit without a tolerance would never fall (write it like 150%)"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], concurrency: adaptive, concurrency_shape: {min: 0, max: 2000000, tolerance: 100%}"#,
        &[
            r#"4:93: min must be from 1 to 1000000, not 0"#,
            r#"4:101: max must be from 1 to 1000000, not 2000000"#,
            r#"4:121: "100%" is not a percentage of 101 or more (write it like 150%, or none)"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], concurrency: 200, concurrency_shape: {min: 5}"#,
        &[
            r#"4:82: a shape is only for a concurrency that is adaptive (write concurrency: adaptive, or leave the shape out)"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], concurrency_shape: {min: 5}"#,
        &[
            r#"4:64: a shape is only for a concurrency that is adaptive (write concurrency: adaptive, or leave the shape out)"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], ejection: {gateway_failures: 7, failure_share: {percent: 0%}}"#,
        &[
            r#"4:74: warning: gateway_failures (7) changes nothing: consecutive_failures (5) comes first (these are failures, too; give it a lower number)"#,
            r#"4:102: at 0% every endpoint would go, also one that never fails (write 1% or more)"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], limits: {max_connections: 1000001, max_in_flight: 1000001, max_idle: 1000001, max_streams: 10001}, check: {tcp: {}, port: 0, timeout: 6m, unhealthy_after: 1001}"#,
        &[
            r#"4:71: max_connections must be from 1 to 1000000, not 1000001"#,
            r#"4:95: max_in_flight must be from 1 to 1000000, not 1000001"#,
            r#"4:114: max_idle must be from 0 to 1000000, not 1000001"#,
            r#"4:136: max_streams must be from 1 to 10000, not 10001"#,
            r#"4:167: port must be from 1 to 65535, not 0"#,
            r#"4:179: timeout must be from 1ms to 5m, not 6m"#,
            r#"4:200: unhealthy_after must be from 1 to 1000, not 1001"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: [{address: "10.0.0.1:1", weight: 65536}], connect_timeout: 301s, subset: 100001, slow_start_shape: {aggression: 11}, retry_budget: {per_second: 1000001}"#,
        &[
            r#"4:62: weight must be from 1 to 65535, not 65536"#,
            r#"4:88: connect_timeout must be from 1ms to 5m, not 5m1s"#,
            r#"4:102: subset must be from 1 to 100000, not 100001"#,
            r#"4:141: aggression must be from 1 to 10, not 11"#,
            r#"4:173: per_second must be from 0 to 1000000, not 1000001"#,
        ],
    ),
    (
        "route",
        r#"to: web, criticality: high"#,
        &[
            r#"3:26: "high" is no value of criticality (known here: critical-plus, critical, sheddable-plus, sheddable)"#,
        ],
    ),
    (
        "route",
        r#"rules: [{to: web}], criticality: sheddable"#,
        &[r#"3:37: a route with rules has no criticality of its own (move it into the rules)"#],
    ),
    // YAML
    (
        "raw",
        r#"listen: *:80
"#,
        &[
            r#"1:9: a value that begins with * is a YAML alias, and there is no such anchor (write it in quotes: "*:80")"#,
        ],
    ),
    (
        "raw",
        r#"listen: [::1]:80
"#,
        &[
            r#"1:14: while parsing a block mapping, did not find expected key (write it in quotes: "[::1]:80")"#,
        ],
    ),
    (
        "raw",
        r#"listen: ':80
"#,
        &["2:1: a quoted text before this does not end"],
    ),
    (
        "raw",
        r#"hostname: *.example.com
"#,
        &[
            r#"1:11: a value that begins with * is a YAML alias, and there is no such anchor (write it in quotes: "*.example.com")"#,
        ],
    ),
    (
        "raw",
        r#"listen: ":80"
listen: ":81"
routes: [{to: 1.1.1.1:1, to: 1.1.1.1:2}]
"#,
        &[
            r#"2:1: the key "listen" is there twice [first here: 1:1]"#,
            r#"3:26: the key "to" is there twice [first here: 3:11]"#,
        ],
    ),
    (
        "raw",
        r#"a: 1
 b: 2
"#,
        &[
            r#"2:3: no mapping can begin here: is it indented too far, or does a value with ": " need quotes?"#,
        ],
    ),
    (
        "raw",
        r#"a: b: c
"#,
        &[
            r#"1:5: no mapping can begin here: is it indented too far, or does a value with ": " need quotes?"#,
        ],
    ),
    (
        "raw",
        r#"a: @x
"#,
        &[r#"1:4: unexpected character: `@' (write it in quotes: "@x")"#],
    ),
    (
        "raw",
        r#"a: 1
---
b: 1
"#,
        &["3:1: the file has several YAML documents; one is read"],
    ),
    (
        "raw",
        r#"a: &x [*x]
"#,
        &["1:8: an alias leads back to itself"],
    ),
    (
        "raw",
        "\tlisten: 1\n",
        &[
            r#"1:1: warning: there is no route, so every request is answered with 404 (write one: routes: [{to: "127.0.0.1:3000"}])"#,
            r#"1:10: "1" is not an address to listen on (did you mean ":1"?)"#,
        ],
    ),
    (
        "raw",
        r#"- a
"#,
        &["1:1: the file must be a mapping, not a list"],
    ),
    (
        "raw",
        r#"hello
"#,
        &["1:1: the file must be a mapping, not a text"],
    ),
    (
        "raw",
        r#"listen: !env PORT
"#,
        &["1:14: unsupported tag `!env`"],
    ),
    (
        "raw",
        r#"? [a]
: b
"#,
        &["1:3: expected string scalar"],
    ),
    // shape
    (
        "raw",
        r#"lisen: ":80"
routs: []
backend: {}
upstreams: {}
"#,
        &[
            r#"1:1: unknown key "lisen" (did you mean "listen"?)"#,
            r#"2:1: unknown key "routs" (did you mean "routes"?)"#,
            r#"3:1: unknown key "backend" (did you mean "backends"?)"#,
            r#"4:1: unknown key "upstreams" (did you mean "backends"?)"#,
        ],
    ),
    (
        "listener",
        r#"adress: ":80", bind: ":80", limits: {max_heads: 1}"#,
        &[
            r#"1:19: "address" is missing in http"#,
            r#"1:20: unknown key "adress" (did you mean "address"?)"#,
            r#"1:35: unknown key "bind" (did you mean "address"?)"#,
            r#"1:57: unknown key "max_heads" (did you mean "max_head"?)"#,
        ],
    ),
    (
        "route",
        "to: web, timeout: 3s, match: {path: /x, header: {}}, retries: 1",
        &[
            r#"3:13: unknown key "timeout" (did you mean "timeouts"?)"#,
            r#"3:34: unknown key "path" (did you mean "prefix"?)"#,
            r#"3:44: unknown key "header" (did you mean "headers"?)"#,
            r#"3:57: unknown key "retries" (did you mean "retry"?)"#,
        ],
    ),
    (
        "route",
        "to: web, filters: [{header: {}}, {}, {rewrite: {path: {full: /a}}, redirect: {port: 1}}]",
        &[
            r#"3:24: unknown key "header" (known here: request_headers, response_headers, rewrite, redirect, mirror, direct)"#,
            "3:37: an entry of filters needs one of: request_headers, response_headers, rewrite, redirect, mirror, direct",
            r#"3:71: an entry of filters has one key, and "rewrite" is there already (give each its own entry in the list) [first here: 3:42]"#,
        ],
    ),
    (
        "backend",
        "endpoints: [{addr: 1.1.1.1:1}], balance: roundrobin, protocol: grpc",
        &[
            r#"4:30: "address" is missing in an entry of endpoints"#,
            r#"4:31: unknown key "addr" (known here: address, label, priority, protocol, state, weight, zone)"#,
            r#"4:59: "roundrobin" is no value of balance (did you mean "round-robin"?)"#,
            r#"4:81: "grpc" is no value of protocol (known here: h1, h2, h2c, auto)"#,
        ],
    ),
    (
        "backend",
        "servers: [1.1.1.1:1]",
        &[
            r#"4:17: "endpoints" is missing in web"#,
            r#"4:18: unknown key "servers" (did you mean "endpoints"?)"#,
        ],
    ),
    (
        "top",
        r#"workers: many
proxy_status_header: yes
admin: off
drain: [1s]
log:
"#,
        &[
            "5:10: workers must be a whole number, not a text",
            "6:22: proxy_status_header must be true or false, not a text (did you mean true?)",
            "7:8: admin must be a mapping, not a text (did you mean {enabled: false}?)",
            "8:8: drain must be a mapping, not a list",
        ],
    ),
    (
        "top",
        r#"workers: -1
admin: {enabled: "true"}
log: {access: {to: 1}}
drain: {lag: 5}
"#,
        &[
            "5:10: workers must be from 0 to 4294967295, not -1",
            "6:18: enabled must be true or false, not a text (did you mean true?)",
            r#"7:20: to must be a text, not the number 1 (write it in quotes: "1")"#,
        ],
    ),
    (
        "top",
        r#"workers: 2.5
"#,
        &["5:10: workers must be a whole number, not the number 2.5"],
    ),
    (
        "top",
        r#"drain: {lag: 1.5}
"#,
        &[
            "5:14: lag must be a text, not the number 1.5 (write A time with units: `250ms`, `1s`, `1m30s`, `2h`)",
        ],
    ),
    (
        "top",
        r#"manifests: 5
"#,
        &[r#"5:12: manifests must be a text, not the number 5 (write it in quotes: "5")"#],
    ),
    (
        "top",
        r#"workers: 010
"#,
        &["5:10: workers must be a whole number, not the number 010"],
    ),
    (
        "top",
        r#"workers: 99999999999
"#,
        &["5:10: workers must be from 0 to 4294967295, not 99999999999"],
    ),
    (
        "listener",
        "address: 8080",
        &[r#"1:29: "8080" is not an address to listen on (did you mean ":8080"?)"#],
    ),
    (
        "listener",
        r#"address: ":80", protocols: h1"#,
        &["1:47: protocols must be a list, not a text (write a list: [h1])"],
    ),
    (
        "listener",
        r#"address: ":80", limits: {max_connections: "5"}"#,
        &["1:62: max_connections must be a whole number, not a text (write it without quotes: 5)"],
    ),
    (
        "listener",
        "address: ",
        &["1:27: address must be a text, not nothing"],
    ),
    (
        "route",
        "to: web, match: {headers: {x-a: 1, x-b: {regx: a}, x-c: {regex: a, present: true}, x-d: [a]}}",
        &[
            r#"3:36: x-a must be a mapping or a text, not the number 1 (write it in quotes: "1")"#,
            r#"3:45: unknown key "regx" (did you mean "regex"?)"#,
            r#"3:71: x-c has one key, and "regex" is there already [first here: 3:61]"#,
            "3:92: x-d must be a mapping or a text, not a list",
        ],
    ),
    // listeners
    (
        "listener",
        r#"address: "8080""#,
        &[r#"1:29: "8080" is not an address to listen on (did you mean ":8080"?)"#],
    ),
    (
        "listener",
        "address: localhost:80",
        &[r#"1:29: "localhost:80" is not an address to listen on (did you mean "127.0.0.1:80"?)"#],
    ),
    (
        "listener",
        r#"address: ":80", hostname: "a..b""#,
        &[r#"1:46: "a..b" is not a hostname: each label has 1 to 63 letters, digits or inner hyphens"#],
    ),
    (
        "listener",
        r#"address: ":80", hostname: "http://a.example.com:80/""#,
        &[
            r#"1:46: "http://a.example.com:80/" is not a hostname: it has a port; listeners have ports, hostnames do not (did you mean "a.example.com"?)"#,
        ],
    ),
    (
        "listener",
        r#"address: ":80", protocols: []"#,
        &["1:47: a listener speaks at least one protocol (write [h1, h2c])"],
    ),
    (
        "listener",
        r#"address: ":80", trusted_proxies: [10.0.0.1/8, nonsense]"#,
        &[
            r#"1:54: "10.0.0.1/8" is not a network (bits are set after the prefix: did you mean 10.0.0.0/8?)"#,
            r#"1:66: "nonsense" is not a network (write an address with a prefix length: 10.0.0.0/8)"#,
        ],
    ),
    (
        "listener",
        r#"address: ":80", limits: {max_head: 1KiB, max_headers: 0, head_deadline: 0s, stream_window: 1KiB, connection_window: 4GiB, max_connections: 0, body_idle: 2d, keep_alive_idle: 48h, max_concurrent_streams: 0}"#,
        &[
            "1:55: max_head must be from 8KiB to 1MiB, not 1KiB",
            "1:74: max_headers must be from 1 to 4096, not 0",
            "1:92: head_deadline must be from 10ms to 24h, not 0s",
            "1:111: stream_window must be from 16KiB to 2147483647B, not 1KiB",
            "1:136: connection_window must be from 65535B to 2147483647B, not 4GiB",
            "1:159: max_connections must be from 1 to 10000000, not 0",
            r#"1:173: "2d" is not a duration (write whole numbers with units h, m, s, ms, us: 1m30s, 250ms)"#,
            "1:194: keep_alive_idle must be from 1ms to 24h, not 48h",
            "1:223: max_concurrent_streams must be from 1 to 10000, not 0",
        ],
    ),
    (
        "listener",
        r#"address: ":80", limits: {max_head: 64kb, stream_window: 2MiB}"#,
        &[
            r#"1:55: "64kb" is not a size (did you mean 64KiB?)"#,
            "1:76: warning: stream_window is larger than connection_window, so no stream can use all of it",
        ],
    ),
    (
        "raw",
        r#"listen: ":80"
listeners: {a: {address: ":81"}}
routes: [{to: 1.1.1.1:1}]
"#,
        &[
            "1:9: listen and listeners are both there (give this address a name under listeners) [listeners here: 2:12]",
        ],
    ),
    (
        "raw",
        r#"routes: [{to: 1.1.1.1:1}]
"#,
        &[r#"1:1: there is no listener (write one: listen: ":8080")"#],
    ),
    (
        "raw",
        r#"listeners: {}
routes: [{to: 1.1.1.1:1}]
"#,
        &["1:12: there is no listener"],
    ),
    (
        "raw",
        r#"listen: ":80"
"#,
        &[
            r#"1:1: warning: there is no route, so every request is answered with 404 (write one: routes: [{to: "127.0.0.1:3000"}])"#,
        ],
    ),
    (
        "raw",
        r#"listeners:
  a: {address: ":80", hostname: a.example.com}
  b: {address: "*:80", hostname: A.example.com}
  c: {address: ":80", limits: {max_headers: 5}}
routes: [{to: 1.1.1.1:1}]
"#,
        &[
            "3:16: two listeners have 0.0.0.0:80 with the hostname a.example.com (give them different hostnames, or make it one listener) [first here: 2:16]",
            "4:16: warning: listeners on 0.0.0.0:80 have different limits; those of a are used for all",
        ],
    ),
    (
        "raw",
        r#"listen: 127.0.0.1:9901
routes: [{to: 1.1.1.1:1}]
"#,
        &[r#"1:9: the admin listener has 127.0.0.1:9901 too (move it: admin: {address: "127.0.0.1:9902"})"#],
    ),
    (
        "raw",
        r#"admin: {address: ":80"}
listen: ":80"
routes: [{to: 1.1.1.1:1}]
"#,
        &["2:9: the admin listener has 0.0.0.0:80 too [admin here: 1:18]"],
    ),
    (
        "raw",
        r#"listeners: {"a b": {address: ":80"}, "": {address: ":81"}}
routes: [{to: 1.1.1.1:1}]
"#,
        &[
            r#"1:13: "a b" cannot be the name of a listener: it has something else than letters, digits, '-', '_' and '.'"#,
            r#"1:38: "" cannot be the name of a listener: it is empty"#,
        ],
    ),
    // references
    (
        "route",
        "to: wbe",
        &[r#"3:8: no backend is called "wbe" (did you mean "web"?)"#],
    ),
    (
        "route",
        "to: nothing-like-it, listeners: [htp, http, http]",
        &[
            r#"3:8: no backend is called "nothing-like-it" (known here: web)"#,
            r#"3:37: no listener is called "htp" (did you mean "http"?)"#,
            r#"3:48: the listener "http" is there twice"#,
        ],
    ),
    (
        "route",
        "to: web, listeners: []",
        &["3:24: the list of listeners is empty (leave it out to mean all)"],
    ),
    (
        "route",
        "to: example.com:port",
        &[r#"3:8: "example.com:port" is not where endpoints are (an endpoint has a port from 1 to 65535)"#],
    ),
    (
        "route",
        r#"to: ":3000""#,
        &[r#"3:8: ":3000" is not the address of an endpoint (did you mean "127.0.0.1:3000"?)"#],
    ),
    (
        "route",
        "split: [{to: web}, {to: weeb}]",
        &[r#"3:28: no backend is called "weeb" (did you mean "web"?)"#],
    ),
    (
        "raw",
        r#"listen: ":80"
routes: [{to: web}]
"#,
        &[r#"2:15: no backend is called "web" (define it: backends: {web: {endpoints: [...]}})"#],
    ),
    (
        "route",
        "to: 1.1.1.1:1",
        &[r#"4:12: warning: no route uses the backend "web""#],
    ),
    // routes
    (
        "route",
        "name: a b, to: web",
        &[
            r#"3:10: "a b" cannot be the name of a route: it has something else than letters, digits, '-', '_' and '.'"#,
        ],
    ),
    (
        "route",
        r#"hostnames: []
, to: web"#,
        &["3:15: the list of hostnames is empty (leave it out to mean all)"],
    ),
    (
        "route",
        r#"hostnames: [a.example.com, A.example.com, "*.*", 'x:80'], to: web"#,
        &[
            r#"3:31: the hostname "A.example.com" is there twice"#,
            r#"3:46: "*.*" is not a hostname: a wildcard stands alone as the first label, like *.example.com"#,
            r#"3:53: "x:80" is not a hostname: it has a port; listeners have ports, hostnames do not (did you mean "x"?)"#,
        ],
    ),
    (
        "raw",
        r#"listen: ":80"
routes:
- {name: a, to: 1.1.1.1:1, match: {prefix: /a}}
- {name: a, to: 1.1.1.1:1}
- {name: route-4, to: 1.1.1.1:1, match: {prefix: /b}}
- {to: 1.1.1.1:1, match: {prefix: /c}}
"#,
        &[
            r#"4:10: two routes are called "a" [first here: 3:10]"#,
            r#"6:3: this route is called "route-4" by its place (give it a name) [and this one by its name: 5:10]"#,
        ],
    ),
    (
        "raw",
        r#"listen: ":80"
routes:
- {to: 1.1.1.1:1, match: {prefix: /a/, headers: {x-a: b, X-B: c}}}
- {to: 1.1.1.1:1, match: {headers: {x-b: c, x-a: b}, prefix: /a}}
- {to: 1.1.1.1:1}
- {to: 1.1.1.1:1, hostnames: [a.example.com]}
- {to: 1.1.1.1:1, hostnames: [b.example.com, A.example.com]}
"#,
        &[
            "4:26: this can never be reached: the same match for the same hostname [is already here: 3:26]",
            "7:3: this can never be reached: the same match for the same hostname [is already here: 6:3]",
        ],
    ),
    (
        "raw",
        r#"listen: ":80"
routes:
- to: 1.1.1.1:1
  matches: [{prefix: /a}, {prefix: /b}, {prefix: /a}]
"#,
        &["4:41: this can never be reached: the same match for the same hostname [is already here: 4:13]"],
    ),
    (
        "raw",
        r#"listeners: {a: {address: ":80", hostname: a.example.com}}
routes:
- {to: 1.1.1.1:1, hostnames: [b.example.com]}
"#,
        &["3:3: warning: the route route-1 is never used: no listener of it has its hostnames"],
    ),
    (
        "route",
        "to: web, rules: [{to: web}], match: {prefix: /a}, retry: {attempts: 2}",
        &[
            "3:8: a route with rules has no to of its own (move it into the rules)",
            "3:40: a route with rules has no match of its own (move it into the rules)",
            "3:61: a route with rules has no retry of its own (move it into the rules)",
        ],
    ),
    ("route", "rules: []", &["3:11: the list of rules is empty"]),
    (
        "route",
        "match: {prefix: /a}",
        &[
            "3:3: nothing answers here (say where to: to: NAME, split: [...], or a filter that answers (redirect, direct))",
        ],
    ),
    (
        "route",
        "to: web, split: [{to: web}]",
        &["3:20: to and split are both there [to here: 3:8]"],
    ),
    (
        "route",
        "split: []",
        &["3:11: the list of shares is empty, so no request goes anywhere"],
    ),
    (
        "route",
        "split: [{to: web, weight: 0}, {to: web, weight: 0}]",
        &["3:11: all weights are 0, so no request goes anywhere"],
    ),
    (
        "route",
        "split: [{to: web, weight: 1000001}]",
        &["3:30: weight must be from 0 to 1000000, not 1000001"],
    ),
    (
        "route",
        "to: web, match: {prefix: /a}, matches: [{prefix: /b}]",
        &["3:43: match and matches are both there (put all of them under matches) [match here: 3:20]"],
    ),
    (
        "route",
        "to: web, matches: []",
        &["3:22: the list of matches is empty (leave it out to mean all)"],
    ),
    (
        "route",
        r#"to: web, match: {prefix: a, exact: /a?b=c, regex: "("}"#,
        &[
            "3:39: a match has one condition on the path (use matches for several) [first here: 3:29]",
            r#"3:39: "/a?b=c" is not a path (it has no query and no fragment)"#,
        ],
    ),
    (
        "route",
        r#"to: web, match: {prefix: "/a/../b"}"#,
        &[r#"3:29: "/a/../b" is not a path (paths are compared without . and .. in them)"#],
    ),
    (
        "route",
        r#"to: web, match: {exact: "/é"}"#,
        &[r#"3:28: "/é" is not a path (write other than visible ASCII characters as %XX)"#],
    ),
    (
        "route",
        r#"to: web, match: {regex: "/(a"}"#,
        &[r#"3:28: "/(a" is not a regular expression: unclosed group"#],
    ),
    (
        "route",
        r#"to: web, match: {regex: "(((a{100}){100}){100})"}"#,
        &[
            r#"3:28: "(((a{100}){100}){100})" is not a regular expression: it is larger than 1 MiB when compiled"#,
        ],
    ),
    (
        "route",
        "to: web, match: {method: get}",
        &[r#"3:29: "get" is not a method (methods are case-sensitive: did you mean GET?)"#],
    ),
    (
        "route",
        r#"to: web, match: {method: "G T"}"#,
        &[r#"3:29: "G T" is not a method"#],
    ),
    (
        "route",
        r#"to: web, match: {headers: {"a b": c, x-a: d, X-A: e, x-r: {regex: "["}, x-p: {present: false}}}"#,
        &[
            r#"3:31: "a b" is not the name of a field"#,
            r#"3:49: the field "X-A" is there twice; case does not matter [first here: 3:41]"#,
            r#"3:70: "[" is not a regular expression: unclosed character class"#,
            "3:91: present can only be true",
        ],
    ),
    (
        "route",
        "to: web, timeouts: {request: 5, per_try: nope, upgrade_idle: 0s}",
        &[
            r#"3:33: "5" is not a duration (a unit is missing: write 5s or 5ms, or none)"#,
            r#"3:45: "nope" is not a duration (write whole numbers with units h, m, s, ms, us: 1m30s, 250ms, or none)"#,
            "3:65: upgrade_idle must be from 1ms to 24h, not 0s",
        ],
    ),
    (
        "route",
        "to: web, timeouts: {request: 5s, per_try: 10s}",
        &["3:46: warning: per_try is never reached, because request (5s) ends first"],
    ),
    (
        "route",
        "to: web, retry: {on: [grpc-unavailabel], max_wait: 6m}",
        &[
            r#"3:26: "grpc-unavailabel" is no reason to try again (did you mean "grpc-unavailable"?)"#,
            "3:55: max_wait must be from 0s to 5m, not 6m",
        ],
    ),
    (
        "route",
        "to: web, retry: {attempts: 0, on: [conect-failure, 200, always], max_replay: 1GiB, backoff: 5h}",
        &[
            "3:31: attempts must be from 1 to 10, not 0",
            r#"3:39: "conect-failure" is no reason to try again (did you mean "connect-failure"?)"#,
            r#"3:55: "200" is no reason to try again (known here: connect-failure, reset, timeout, a status from 400 to 599, or grpc- and a status of gRPC)"#,
            r#"3:60: "always" is no reason to try again (known here: connect-failure, reset, timeout, a status from 400 to 599, or grpc- and a status of gRPC)"#,
            "3:81: max_replay must be from 0B to 16MiB, not 1GiB",
            "3:96: backoff must be from 1ms to 1m, not 5h",
        ],
    ),
    // filters
    (
        "route",
        "filters: [{redirect: {scheme: https}}], to: web",
        &["3:48: no request gets here, because redirect answers [this filter: 3:14]"],
    ),
    (
        "route",
        "filters: [{redirect: {}}]",
        &["3:14: a redirection to the same place never ends (give it a scheme, hostname, port or path)"],
    ),
    (
        "route",
        r#"filters: [{redirect: {status: 200, port: 0, hostname: "*.a", scheme: ftp}}]"#,
        &[r#"3:73: "ftp" is no value of scheme (known here: http, https)"#],
    ),
    (
        "route",
        r#"filters: [{redirect: {status: 200, port: 0, hostname: "*.a"}}]"#,
        &[
            "3:34: status must be 301, 302, 303, 307 or 308, not 200",
            "3:45: port must be from 1 to 65535, not 0",
            r#"3:58: "*.a" is a pattern, not a hostname"#,
        ],
    ),
    (
        "route",
        "filters: [{redirect: {port: 1}}, {direct: {}}]",
        &["3:37: one filter answers already [this one: 3:14]"],
    ),
    (
        "route",
        r#"filters: [{rewrite: {}}, {rewrite: {hostname: "a b", path: {full: x}}}], to: web"#,
        &[
            "3:14: a rewrite changes the hostname or the path",
            "3:29: one filter rewrites already [this one: 3:14]",
            r#"3:50: "a b" is not a hostname"#,
            r#"3:70: "x" is not a path (it begins with /: did you mean "/x"?)"#,
        ],
    ),
    (
        "route",
        "to: web, match: {exact: /a}, filters: [{rewrite: {path: {prefix: /b}}}]",
        &["3:69: prefix is only for rules that match by prefix"],
    ),
    (
        "route",
        "to: web, match: {prefix: /a}, filters: [{rewrite: {path: {captures: /$1}}}]",
        &["3:72: captures is only for rules that match by regex"],
    ),
    (
        "route",
        r#"to: web, match: {regex: "/(a)"}, filters: [{rewrite: {path: {captures: "/$1/$2/$1_x/${no}/$$"}}}]"#,
        &[
            r#"3:75: the path's regex has no group "2""#,
            r#"3:75: the path's regex has no group "1_x" (end a name with braces: ${1}_x)"#,
            r#"3:75: the path's regex has no group "no""#,
        ],
    ),
    (
        "route",
        "to: web, filters: [{mirror: {to: shadow, percent: 20}}, {mirror: {to: web, percent: 120%}}]",
        &[
            r#"3:37: no backend is called "shadow" (known here: web)"#,
            r#"3:54: "20" is not a percentage (a percent sign is missing: did you mean 20%?)"#,
            r#"3:88: "120%" is not a percentage (write a number from 0 to 100 with a percent sign: 20%)"#,
        ],
    ),
    (
        "route",
        r#"filters: [{direct: {status: 100, headers: {"a b": c, content-length: "1", x-a: "é"}}}]"#,
        &[
            "3:32: status must be from 200 to 599, not 100",
            r#"3:47: "a b" is not the name of a field"#,
            "3:57: content-length is the proxy's own and cannot be given",
        ],
    ),
    (
        "route",
        r#"to: web, filters: [{request_headers: {set: {"a b": c, host: d, x-a: "a\nb", x-b: a, X-B: b}, remove: [transfer-encoding, ""]}}]"#,
        &[
            r#"3:48: "a b" is not the name of a field"#,
            "3:58: host is not edited as a field (use rewrite: {hostname: ...})",
            "3:72: the value of a field has no control characters but tabs",
            r#"3:88: the field "X-B" is there twice; case does not matter [first here: 3:80]"#,
            "3:106: transfer-encoding is the proxy's own and cannot be edited",
            r#"3:125: "" is not the name of a field"#,
        ],
    ),
    (
        "route",
        "split: [{to: web, filters: [{redirect: {port: 1}}]}]",
        &["3:32: redirect is for a whole rule, not for a share"],
    ),
    // backends
    (
        "backend",
        "endpoints: []",
        &["4:17: warning: a backend without endpoints answers every request with 503"],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1", "::1:80", -bc:80, "10.0.0.1:0", {address: "0.0.0.0:80", weight: 0}]"#,
        &[
            r#"4:30: "10.0.0.1" is not the address of an endpoint (a port is missing: "10.0.0.1:PORT")"#,
            r#"4:42: "::1:80" is not the address of an endpoint (IPv6 addresses stand in brackets: "[::1]:80")"#,
            r#"4:52: "-bc:80" is not where endpoints are (the parts of a name have 1 to 63 letters, digits, '_' or inner '-')"#,
            r#"4:60: "10.0.0.1:0" is not the address of an endpoint (an endpoint has a port from 1 to 65535)"#,
            r#"4:84: "0.0.0.0:80" is not the address of an endpoint (did you mean "127.0.0.1:80"?)"#,
            "4:106: weight must be from 1 to 65535, not 0",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1", {address: "10.0.0.1:1", weight: 2}]"#,
        &[
            "4:44: the endpoint 10.0.0.1:1 is there twice (give one of them a weight instead) [first here: 4:30]",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], affinity: {by: source}, hedge: {percent: 101%, least_delay: 0s, per_second: 2000000}"#,
        &[
            "4:76: a backend with affinity cannot hedge (hedging sends requests to a second endpoint, affinity keeps them at one: leave one of them out)",
            r#"4:86: "101%" is not a percentage (write a number from 0 to 100 with a percent sign: 20%)"#,
            "4:105: least_delay must be from 1ms to 1m, not 0s",
            "4:121: per_second must be from 0 to 1000000, not 2000000",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], load_reports: {raed: true, ask: perhaps}"#,
        &[
            r#"4:60: unknown key "raed" (did you mean "read"?)"#,
            "4:77: ask must be true or false, not a text",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], connect_timeout: 0s, slow_start: 25h, limits: {max_connections: 0, max_in_flight: 0, queue_timeout: 1h, idle_timeout: 0s, max_streams: 0}, retry_budget: {percent: 120%}"#,
        &[
            "4:62: connect_timeout must be from 1ms to 5m, not 0s",
            "4:78: slow_start must be from 0s to 24h, not 25h",
            "4:109: max_connections must be from 1 to 1000000, not 0",
            "4:127: max_in_flight must be from 1 to 1000000, not 0",
            "4:145: queue_timeout must be from 0s to 5m, not 1h",
            "4:163: idle_timeout must be from 1ms to 24h, not 0s",
            "4:180: max_streams must be from 1 to 10000, not 0",
            r#"4:208: "120%" is not a percentage (write a number from 0 to 100 with a percent sign: 20%)"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], ejection: {consecutive_failures: 0, base: 10m, max: 1m, max_percent: 0.5%}"#,
        &[
            "4:78: consecutive_failures must be from 1 to 1000000, not 0",
            "4:87: base (10m) is longer than max (1m)",
            r#"4:114: "0.5%" is not a whole percentage (write it without a point: 20%)"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], balance: ring, hash: query, hash_bound: 100%, panic: 101%, slow_start_shape: {aggression: 0, minimum: 1.5%}"#,
        &[
            r#"4:54: "ring" is no value of balance (known here: least-latency, least-request, maglev, random, ring-hash, round-robin)"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], hash: query, hash_bound: 100%, panic: 101%, slow_start_shape: {aggression: 0, minimum: 1.5%}"#,
        &[
            r#"4:51: "query" is not a part of the request (write source, path, header:NAME or cookie:NAME)"#,
            r#"4:70: "100%" is not a percentage of 101 or more (write it like 150%, or none)"#,
            r#"4:83: "101%" is not a percentage (write a number from 0 to 100 with a percent sign: 20%)"#,
            "4:120: aggression must be from 1 to 10, not 0",
            r#"4:132: "1.5%" is not a whole percentage (write it without a point: 20%)"#,
        ],
    ),
    (
        "backend",
        r#"endpoints: [{address: "10.0.0.1:1", priority: 8}], subset: 0, locality: near"#,
        &[r#"4:90: "near" is no value of locality (known here: hints, off, zone)"#],
    ),
    (
        "backend",
        r#"endpoints: [{address: "10.0.0.1:1", priority: 8}], subset: 0"#,
        &[
            "4:64: priority must be from 0 to 7, not 8",
            "4:77: subset must be from 1 to 100000, not 0",
        ],
    ),
    ("top", r#"zone: "" "#, &["5:7: zone is an empty name"]),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], affinity: {by: path, cookie: {name: a}}"#,
        &[
            r#"4:60: "path" is nothing that requests can be tied by (write cookie, source or header:NAME; the cookie's name stands in cookie.name)"#,
            "4:74: a cookie is only set when affinity is by cookie (leave it out, or write {by: cookie})",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], affinity: {by: source, cookie: {name: a}}"#,
        &["4:76: a cookie is only set when affinity is by cookie (leave it out, or write {by: cookie})"],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], affinity: {cookie: {name: "a b", path: x, ttl: 1ms}}"#,
        &[
            r#"4:71: "a b" is not a cookie's name"#,
            r#"4:84: "x" is not a cookie's path (it begins with /)"#,
            "4:92: ttl must be from 1s to 8760h, not 1ms",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], check: {}"#,
        &["4:52: a check needs http, grpc or tcp (write {http: {path: /healthz}}, {grpc: {}} or {tcp: {}})"],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], check: {tcp: {}, http: {path: x, host: "a b", statuses: 2xx}, port: 0}"#,
        &[
            "4:52: a check asks by one of http, grpc and tcp",
            r#"4:75: "x" is not a path (it begins with /)"#,
            r#"4:84: "a b" is not a hostname"#,
            r#"4:101: "2xx" is not a range of statuses (write statuses from 100 to 599: 200-299 or 204)"#,
            "4:113: port must be from 1 to 65535, not 0",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], check: {http: {path: /, headers: {host: a, te: b, "x y": c}, statuses: "200,999", body: ""}}"#,
        &[
            "4:79: host is the proxy's own and cannot be set (use host)",
            "4:88: te is the proxy's own and cannot be set",
            r#"4:95: "x y" is not the name of a field"#,
            r#"4:116: "999" is not a range of statuses (write statuses from 100 to 599: 200-299 or 204)"#,
            "4:133: body must have 1 to 1024 bytes",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], ejection: {gateway_failures: 0, interval: 1ms, success_rate: {min_endpoints: 1, deviation: 0}, failure_share: {min_requests: 0, percent: 110%}, latency: {times: 1}}"#,
        &[
            "4:74: gateway_failures must be from 1 to 1000000, not 0",
            "4:87: interval must be from 100ms to 24h, not 1ms",
            "4:122: min_endpoints must be from 2 to 100000, not 1",
            "4:136: deviation must be from 1 to 100000, not 0",
            "4:170: min_requests must be from 1 to 1000000000, not 0",
            r#"4:182: "110%" is not a percentage (write a number from 0 to 100 with a percent sign: 20%)"#,
            "4:206: times must be from 2 to 1000, not 1",
        ],
    ),
    (
        "backend",
        r#"endpoints: ["10.0.0.1:1"], check: {http: {path: x, host: "a b", statuses: 2xx}, interval: 0s, healthy_after: 0}"#,
        &[
            r#"4:66: "x" is not a path (it begins with /)"#,
            r#"4:75: "a b" is not a hostname"#,
            r#"4:92: "2xx" is not a range of statuses (write statuses from 100 to 599: 200-299 or 204)"#,
            "4:108: interval must be from 10ms to 24h, not 0s",
            "4:127: healthy_after must be from 1 to 1000, not 0",
        ],
    ),
    (
        "raw",
        r#"listen: ":80"
routes: [{to: web}]
backends:
  web: {endpoints: ["1.1.1.1:1"]}
  unused: {endpoints: []}
  1.1.1.1:1: {endpoints: ["1.1.1.1:2"]}
  a/b: {endpoints: ["1.1.1.1:2"]}
"#,
        &[
            "5:11: warning: a backend without endpoints answers every request with 503",
            "6:3: a backend that is called like an address has it as its only endpoint",
            r#"7:3: "a/b" cannot be the name of a backend: it has something else than letters, digits, '-', '_' and '.'"#,
        ],
    ),
    // settings
    (
        "top",
        r#"workers: 0
admin: {address: here}
log: {access: {to: stdotu}}
drain: {lag: 2days}
manifests: ""
"#,
        &[
            "5:10: workers must be from 1 to 1024, not 0",
            r#"6:18: "here" is not an address to listen on (write ":8080", "127.0.0.1:8080" or "[::1]:8080")"#,
            r#"7:20: "stdotu" is no place for the access log (did you mean "stdout"?)"#,
            r#"8:14: "2days" is not a duration (write whole numbers with units h, m, s, ms, us: 1m30s, 250ms)"#,
            "9:12: manifests is an empty path",
        ],
    ),
    (
        "top",
        r#"log: {access: {to: access.log}}
"#,
        &[
            r#"5:20: "access.log" is no place for the access log (write stdout, stderr or a path like ./access.log)"#,
        ],
    ),
];
