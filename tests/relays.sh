#!/usr/bin/env bash
# Relays between programs that others have written:
#
#   tests/relays.sh target/release/tidegate
#
# psql and pgbench speak with PostgreSQL over TCP, with and without TLS of their own, mqtt with aedes over TLS that ends in the proxy,
# Node's resolver with a DNS server over UDP. aedes, mqtt and dns2 come from npm into the folder RELAYS_NODE (default: a
# temporary one). Everything is on free ports of the loopback and ends with this script.
set -uo pipefail

tidegate=${1:?usage: tests/relays.sh TIDEGATE}
room=$(mktemp -d)
pids=()

finish() {
  local pid
  for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null; done
  sleep 0.5
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null; done
  wait 2>/dev/null
  rm -rf "$room"
}
trap finish EXIT

for tool in initdb postgres psql node npm openssl; do
  command -v "$tool" >/dev/null || { echo "$tool is needed and not there"; exit 1; }
done
modules=${RELAYS_NODE:-$room/node}
mkdir -p "$modules"
[ -d "$modules/node_modules/aedes" ] || npm install --silent --no-fund --prefix "$modules" aedes@1 mqtt@5 dns2@2 >/dev/null ||
  { echo "npm cannot get aedes, mqtt and dns2"; exit 1; }
export NODE_PATH=$modules/node_modules

checks=0
good() {
  checks=$((checks + 1))
  echo "ok    $1"
}
bad() {
  echo "FAIL  $1"
  tail -n 20 "$room"/*.log
  for log in "$room"/*.err; do echo "--- $log"; tail -n 20 "$log"; done
  exit 1
}
is() { # what, expected, found
  [ "$2" = "$3" ] && good "$1" || bad "$1: expected '$2', found '$3'"
}
wait_for() { # file, sed expression
  local found
  for _ in $(seq 400); do
    found=$(sed -nE "$2" "$1" 2>/dev/null | head -n 1)
    [ -n "$found" ] && { echo "$found"; return; }
    sleep 0.05
  done
  return 1
}
free_port() { node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close(); })'; }
relay() { # name, scheme, more arguments; says where it listens
  local name=$1 scheme=$2
  shift 2
  NO_COLOR=1 "$tidegate" proxy --from "$scheme://127.0.0.1:0" --access-log "$@" >"$room/$name.log" 2>"$room/$name.err" &
  pids+=($!)
  proxy=$!
  port=$(wait_for "$room/$name.err" "s|.*listening on $scheme://127.0.0.1:([0-9]+).*|\1|p") || bad "the relay of $name did not start"
}

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$room/key.pem" -out "$room/cert.pem" 2>/dev/null || bad "no certificate"

# PostgreSQL does not run as root.
as_other() {
  if [ "$(id -u)" = 0 ]; then setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; else "$@"; fi
}
chmod 755 "$room"
mkdir "$room/pg"
cp "$room/key.pem" "$room/cert.pem" "$room/pg/"
chmod 600 "$room/pg/key.pem"
[ "$(id -u)" = 0 ] && chown -R 65534:65534 "$room/pg"
as_other initdb -D "$room/pg/data" -U tide --auth=trust >"$room/initdb.err" 2>&1 || bad "initdb"
database=$(free_port)
(cd "$room/pg" && exec setpriv --pdeathsig INT $([ "$(id -u)" = 0 ] && echo --reuid=65534 --regid=65534 --clear-groups) \
  postgres -D data -p "$database" -k "$room/pg" -c listen_addresses=127.0.0.1 -c fsync=off \
  -c ssl=on -c ssl_cert_file="$room/pg/cert.pem" -c ssl_key_file="$room/pg/key.pem") 2>"$room/postgres.err" &
pids+=($!)
wait_for "$room/postgres.err" 's/.*(ready to accept connections).*/\1/p' >/dev/null || bad "PostgreSQL did not start"

# A refused endpoint beside it: every connection gets through all the same.
relay postgres tcp --to "127.0.0.1:$database" --to "127.0.0.1:$(free_port)"
query() { PGCONNECT_TIMEOUT=20 psql -qtA "host=127.0.0.1 port=$port user=tide dbname=postgres sslmode=$1" -c "$2"; }
is "psql without TLS" 42 "$(query disable 'select 6 * 7')"
is "psql with TLS through the relay" t "$(query require 'select ssl from pg_stat_ssl where pid = pg_backend_pid()')"
is "a large result" 20000000 "$(query disable "select repeat('x', 20000000)" | tr -d '\n' | wc -c)"
for number in $(seq 20); do query disable "select $number"; done >"$room/numbers"
is "twenty connections, one endpoint refusing" "$(seq 20)" "$(cat "$room/numbers")"
is "a listener waits, and is notified" "Asynchronous notification" \
  "$(psql -qtA "host=127.0.0.1 port=$port user=tide dbname=postgres" -c 'listen tide' -c "notify tide, 'x'" -c 'select 1' | sed -nE 's/^(Asynchronous notification).*/\1/p')"
if command -v pgbench >/dev/null || [ -x /usr/lib/postgresql/15/bin/pgbench ]; then
  pgbench=$(command -v pgbench || echo /usr/lib/postgresql/15/bin/pgbench)
  "$pgbench" -q -i -h 127.0.0.1 -p "$port" -U tide postgres >"$room/pgbench.err" 2>&1 || bad "pgbench -i"
  "$pgbench" -S -c 8 -T 3 -h 127.0.0.1 -p "$port" -U tide postgres >"$room/pgbench.out" 2>>"$room/pgbench.err" || bad "pgbench"
  is "pgbench: no failed transaction" 0 "$(sed -nE 's/^number of failed transactions: ([0-9]+) .*/\1/p' "$room/pgbench.out")"
fi
kill -TERM "$proxy"
wait "$proxy"
is "connections that did not end well" "" "$(grep -v 'outcome=relayed' "$room/postgres.log")"

# MQTT over TLS that ends in the proxy.
cat >"$room/broker.mjs" <<'JS'
import { createServer } from "net";
const { Aedes } = await import(process.env.NODE_PATH + "/aedes/aedes.js");
const broker = await Aedes.createBroker();
const server = createServer(broker.handle);
server.listen(0, "127.0.0.1", () => console.log("port " + server.address().port));
JS
cat >"$room/clients.js" <<'JS'
const mqtt = require("mqtt");
const options = { ca: require("fs").readFileSync(process.argv[3]), servername: "localhost", reconnectPeriod: 0 };
const url = "mqtts://127.0.0.1:" + process.argv[2];
const wanted = 500;
const listener = mqtt.connect(url, options);
let got = 0;
listener.on("message", (topic, message) => {
  if (message.toString() !== "tide " + got) throw new Error("not in order: " + message);
  if (++got === wanted) { console.log("got " + got); process.exit(0); }
});
listener.on("error", (error) => { console.log(String(error)); process.exit(1); });
listener.subscribe("harbour/#", { qos: 1 }, () => {
  const speaker = mqtt.connect(url, options);
  for (let number = 0; number < wanted; number++) speaker.publish("harbour/water", "tide " + number, { qos: 1 });
});
setTimeout(() => { console.log("only " + got); process.exit(1); }, 30000);
JS
node "$room/broker.mjs" >"$room/broker.out" 2>"$room/broker.err" &
pids+=($!)
broker=$(wait_for "$room/broker.out" 's/^port ([0-9]+)$/\1/p') || bad "the broker did not start"
relay mqtt tls --tls-cert "$room/cert.pem" --tls-key "$room/key.pem" --to "127.0.0.1:$broker"
is "MQTT over TLS, 500 messages in order" "got 500" "$(node "$room/clients.js" "$port" "$room/cert.pem" 2>"$room/clients.err")"

# DNS over UDP.
cat >"$room/dns.js" <<'JS'
const { createServer, Packet } = require("dns2");
const server = createServer({ udp: true, handle: (request, send) => {
  const response = Packet.createResponseFromRequest(request);
  const [{ name }] = request.questions;
  response.answers.push({ name, type: Packet.TYPE.A, class: Packet.CLASS.IN, ttl: 1, address: "192.0.2." + name.split(".")[0] });
  send(response);
} });
server.on("listening", () => console.log("port " + server.addresses().udp.port));
server.listen({ udp: { port: 0, address: "127.0.0.1" } });
JS
cat >"$room/resolve.js" <<'JS'
const { Resolver } = require("dns").promises;
const resolver = new Resolver({ timeout: 5000, tries: 2 });
resolver.setServers(["127.0.0.1:" + process.argv[2]]);
const names = [...Array(200).keys()];
Promise.all(names.map(async (number) => (await resolver.resolve4(number + ".tide.example"))[0] === "192.0.2." + number))
  .then((right) => console.log(right.filter(Boolean).length + " right"), (error) => console.log(String(error)));
JS
node "$room/dns.js" >"$room/dns.out" 2>"$room/dns.err" &
pids+=($!)
names=$(wait_for "$room/dns.out" 's/^port ([0-9]+)$/\1/p') || bad "the DNS server did not start"
relay dns udp --to "127.0.0.1:$names" --to "127.0.0.1:$(free_port)"
is "200 names over UDP, one endpoint refusing" "200 right" "$(node "$room/resolve.js" "$port" 2>>"$room/dns.err")"

echo "$checks checks, all good"
