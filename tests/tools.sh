#!/usr/bin/env bash
# Clients that others have written, before a server that others have written, with the proxy between:
#
#   tests/tools.sh target/release/tidegate
#
# curl speaks HTTP/1.0, HTTP/1.1 and HTTP/2, with TLS and without, openssl makes handshakes, h2load opens many connections and streams, node answers,
# Pebble signs certificates (tests/acme/pebble.py). Everything is on
# free ports of the loopback and ends with this script.
set -uo pipefail

tidegate=${1:?usage: tests/tools.sh TIDEGATE}
room=$(mktemp -d)
pids=()

finish() {
  local pid
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null; done
  wait 2>/dev/null
  rm -rf "$room"
}
trap finish EXIT

for tool in curl go h2load node openssl python3; do
  command -v "$tool" >/dev/null || { echo "$tool is needed and not there"; exit 1; }
done

checks=0
good() {
  checks=$((checks + 1))
  echo "ok    $1"
}
bad() {
  echo "FAIL  $1"
  echo "--- the proxy's log"
  tail -n 40 "$room/proxy.err"
  exit 1
}
is() { # what, expected, found
  [ "$2" = "$3" ] && good "$1" || bad "$1: expected '$2', found '$3'"
}

# The first line of a file that is being written, cut down to what a sed expression leaves.
wait_for() { # file, sed expression
  local found
  for _ in $(seq 200); do
    found=$(sed -nE "$2" "$1" 2>/dev/null | head -n 1)
    [ -n "$found" ] && { echo "$found"; return; }
    sleep 0.05
  done
  return 1
}

# A server of node's: echoes bodies, tells on /head what it got, and sends /big in pieces of unknown length.
cat >"$room/server.js" <<'JS'
const server = require("http").createServer((request, response) => {
  if (request.url === "/head") {
    response.end(JSON.stringify({ version: request.httpVersion, ...request.headers }));
  } else if (request.url === "/big") {
    let left = 160;
    const piece = Buffer.alloc(32768, "x");
    const more = () => {
      while (left-- > 0) if (!response.write(piece)) return response.once("drain", more);
      response.end();
    };
    more();
  } else if (request.url === "/gone") {
    response.writeHead(410).end("gone\n");
  } else if (request.method === "POST" || request.method === "PUT") {
    request.pipe(response);
  } else {
    response.end("hello\n");
  }
});
server.keepAliveTimeout = 60000;
server.listen(0, "127.0.0.1", () => console.log("port " + server.address().port));
JS
node "$room/server.js" >"$room/server.out" 2>&1 &
pids+=($!)
backend=$(wait_for "$room/server.out" 's/^port ([0-9]+)$/\1/p') || bad "the backend did not start"

NO_COLOR=1 "$tidegate" proxy --from 127.0.0.1:0 --to "127.0.0.1:$backend" --admin 127.0.0.1:0 2>"$room/proxy.err" &
proxy=$!
pids+=("$proxy")
url=$(wait_for "$room/proxy.err" 's|.*listening on (http://[0-9.:]+),.*|\1|p') || bad "the proxy did not start"
admin=$(wait_for "$room/proxy.err" 's|.*readiness on (http://[0-9.:]+).*|\1|p') || bad "no admin listener"

get() { curl -sS --noproxy '*' --max-time 30 "$@"; }
digest() { sha256sum | cut -c1-64; }

ready=$(get -o /dev/null -w '%{http_code}' "$admin/readyz")
is "it is ready" 200 "$ready"

# Versions of HTTP
for flag in http1.0 http1.1 http2-prior-knowledge; do
  is "curl --$flag" "hello" "$(get --fail "--$flag" "$url/")"
done
is "HTTP/2 stays HTTP/2" 2 "$(get --http2-prior-knowledge -o /dev/null -w '%{http_version}' "$url/")"

# Connections are kept
is "a second request opens no connection" "1 0" \
  "$(get -o /dev/null -o /dev/null -w '%{num_connects} ' "$url/" "$url/" | xargs)"

# Answers pass as they are
is "an error of the server's" "gone 410" "$(get -w '%{http_code}' "$url/gone" | xargs)"
is "HEAD has no body" "200 0" "$(get --head -o /dev/null -w '%{http_code} %{size_download}' "$url/")"
is "the server learns who asks" "127.0.0.1 http ${url#http://}" \
  "$(get "$url/head" | python3 -c 'import json, sys
head = json.load(sys.stdin)
print(head["x-forwarded-for"], head["x-forwarded-proto"], head["host"])')"

# Bodies, both ways: with a length, in chunks, in frames; `Expect: 100-continue` is curl's own for long ones
head -c 5000000 /dev/urandom >"$room/upload"
sent=$(digest <"$room/upload")
for flag in http1.1 http2-prior-knowledge; do
  is "5 MB there and back, $flag" "$sent" "$(get "--$flag" --data-binary "@$room/upload" "$url/echo" | digest)"
  is "the same, of unknown length, $flag" "$sent" "$(get "--$flag" -T - "$url/echo" <"$room/upload" | digest)"
  is "5 MiB in pieces, $flag" 5242880 "$(get "--$flag" "$url/big" | wc -c)"
done

# An ambiguous request is refused, and the connection with it
exec 3<>"/dev/tcp/127.0.0.1/${url##*:}"
printf 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n' >&3
answer=$(timeout 10 cat <&3 | tr -d '\r')
exec 3>&-
is "two lengths" "HTTP/1.1 400 Bad Request" "$(head -n 1 <<<"$answer")"
is "and nothing is answered after it" 1 "$(grep -c '^HTTP/1.1 ' <<<"$answer")"

# TLS: curl and openssl as clients, with a certificate made for this run
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$room/tls.key" -out "$room/tls.crt" -days 2 \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null || bad "openssl makes no certificate"
NO_COLOR=1 "$tidegate" proxy --from 127.0.0.1:0 --to "127.0.0.1:$backend" --tls-cert "$room/tls.crt" --tls-key "$room/tls.key" \
  2>"$room/tls.err" &
tls_proxy=$!
pids+=("$tls_proxy")
port=$(wait_for "$room/tls.err" 's|.*listening on https://[0-9.]+:([0-9]+),.*|\1|p') || bad "the proxy with TLS did not start"
https="https://localhost:$port"
secure() { get --cacert "$room/tls.crt" --resolve "localhost:$port:127.0.0.1" "$@"; }
for flag in http1.1 http2; do
  for version in 1.2 1.3; do
    is "curl --$flag over TLS $version" "hello" "$(secure --fail "--$flag" "--tlsv$version" --tls-max "$version" "$https/")"
  done
  is "5 MB there and back over TLS, $flag" "$sent" "$(secure "--$flag" --data-binary "@$room/upload" "$https/echo" | digest)"
  is "5 MiB in pieces over TLS, $flag" 5242880 "$(secure "--$flag" "$https/big" | wc -c)"
done
is "ALPN chooses HTTP/2" 2 "$(secure -o /dev/null -w '%{http_version}' "$https/")"
is "the server learns of TLS" https "$(secure "$https/head" |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["x-forwarded-proto"])')"
is "who does not trust it gets nothing" 60 "$(get -o /dev/null "$https/" --resolve "localhost:$port:127.0.0.1" 2>/dev/null; echo $?)"
is "clear text is told so" 400 "$(get -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/")"
for version in 2 3; do
  said=$(timeout 20 openssl s_client -connect "127.0.0.1:$port" -servername localhost -CAfile "$room/tls.crt" \
    "-tls1_$version" -alpn h2,http/1.1 </dev/null 2>&1)
  is "openssl s_client, TLS 1.$version" "Verify return code: 0 (ok) ALPN protocol: h2" \
    "$(grep -oE 'Verify return code: .*' <<<"$said" | head -n 1) $(grep -oE 'ALPN protocol: .*' <<<"$said" | head -n 1)"
  said=$(timeout 20 openssl s_client -connect "127.0.0.1:$port" -servername localhost -CAfile "$room/tls.crt" \
    "-tls1_$version" -reconnect </dev/null 2>&1)
  [ "$version" = 3 ] || is "openssl takes its session up again, TLS 1.2" 5 "$(grep -c '^Reused, ' <<<"$said")"
done
timeout 20 openssl s_client -connect "127.0.0.1:$port" -tls1_1 </dev/null >/dev/null 2>&1 &&
  bad "TLS 1.1 is spoken" || good "TLS 1.1 is not spoken"
kill -TERM "$tls_proxy"
wait "$tls_proxy"
is "the proxy with TLS ends when told to" 0 $?

# Many at once: connections in HTTP/1.1, streams in HTTP/2
load() { # what, h2load's flags
  local what=$1 said
  shift
  said=$(timeout 120 h2load "$@" "$url/" 2>&1) || bad "$what: $said"
  is "$what" "0 failed, 0 errored, 0 timeout" "$(sed -nE 's/^requests: .* succeeded, (.*)$/\1/p' <<<"$said")"
}
load "h2load, 64 connections" --h1 -n 8000 -c 64 -t 1
load "h2load, 8 connections of 32 streams" -n 8000 -c 8 -m 32 -t 1
load "h2load, 1 connection of 100 streams" -n 4000 -c 1 -m 100 -t 1

# What happened is counted, and nothing of it is a failure but the refusal
metrics=$(get "$admin/metrics")
is "failures in the metrics" 0 "$(grep -E '^tidegate_requests_total' <<<"$metrics" |
  grep -cvE 'outcome="(answered|bad_request)"')"
answered=$(sed -nE 's/^tidegate_requests_total\{.*outcome="answered".*\} ([0-9]+)$/\1/p' <<<"$metrics" | awk '{ sum += $1 } END { print sum + 0 }')
[ "$answered" -ge 20000 ] && good "answered in the metrics: $answered" || bad "answered in the metrics: $answered"

# The end: in good order
kill -TERM "$proxy"
wait "$proxy"
is "it ends when told to" 0 $?

# Certificates by ACME, from an authority that others have written
"$(dirname "$0")/acme/pebble.py" "$tidegate" || exit 1
good "ACME, see above"

echo "tools: $checks passed, 0 failed"
