#!/usr/bin/env python3
"""Tidegate against Pebble, the ACME test server of Let's Encrypt's makers, as processes on free ports of the loopback:

    tests/acme/pebble.py target/release/tidegate

First certificates by http-01, tls-alpn-01 and dns-01 (a wildcard), with an external account; renewals of certificates that live for
less than a minute, while handshakes go on; two replicas with one store that answer for each other. Pebble and its DNS server are
built from their Go modules once per version, into ~/.cache/tidegate/pebble. Needs go and openssl."""
import fcntl, hashlib, json, os, pathlib, shutil, socket, ssl, subprocess, sys, tempfile, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent
LIFE = 40  # seconds that a certificate is good
KEY_ID, KEY = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
PATIENCE = 120
started = []
checks = 0


def build():
    module = HERE / "pebble"
    key = hashlib.sha256(b"".join((module / name).read_bytes() for name in ("go.mod", "go.sum"))).hexdigest()[:16]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tidegate/pebble" / key
    if not (cache / "done").exists():
        print(f"building into {cache}", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        names = [f"github.com/letsencrypt/pebble/v2/cmd/{name}" for name in ("pebble", "pebble-challtestsrv")]
        subprocess.run(["go", "build", "-o", f"{cache}/", *names], cwd=module, check=True,
                       env={**os.environ, "CGO_ENABLED": "0"})
        (cache / "done").touch()
    return cache


def free_port(*addresses):
    """A port that is free on all of these addresses."""
    while True:
        sockets = []
        try:
            port = 0
            for address in addresses or ("127.0.0.1",):
                one = socket.socket()
                sockets.append(one)
                one.bind((address, port))
                port = one.getsockname()[1]
            return port
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()


def start(name, *command, **env):
    log = open(ROOM / f"{name}.log", "ab")
    process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env={**os.environ, **env})
    started.append((name, process))
    return process


def stop(process):
    process.terminate()
    assert process.wait(60) == 0, "it did not end in good order"


def until(what, holds, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        for name, process in started:
            if process.poll() not in (None, 0):
                fail(f"{name} ended with {process.returncode}")
        if time.monotonic() > end:
            fail(f"it never came to hold: {what}")
        time.sleep(0.1)


def fail(why):
    for name in sorted(path.name for path in ROOM.glob("*.log")):
        print(f"--- the end of {name}")
        print("\n".join((ROOM / name).read_text(errors="replace").splitlines()[-40:]))
    sys.exit(f"FAIL  {why}")


def good(what):
    global checks
    checks += 1
    print(f"ok    {what}", flush=True)


def get(url, context=None, data=None):
    try:
        with urllib.request.urlopen(url, context=context, data=data, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def shown(address, port, name):
    """The certificate that is shown for a name, verified with Pebble's root; none if there is no handshake."""
    try:
        with socket.create_connection((address, port), 10) as tcp, ROOT.wrap_socket(tcp, server_hostname=name) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nhost: " + name.encode() + b"\r\nconnection: close\r\n\r\n")
            assert tls.recv(100).startswith(b"HTTP/1.1 200 "), "no 200"
            return tls.getpeercert()["serialNumber"]
    except OSError:
        return None


class Tidegate:
    """A process with a listener in clear text and one that leaves names to ACME."""

    def __init__(self, name, names, challenge="http-01", store=None, address="127.0.0.1"):
        self.address, self.admin = address, f"{address}:{free_port(address)}"
        store = store or ROOM / f"store-{name}"
        hook = f"dns_hook: {{command: [{ROOM}/hook], settle: 0s}}" if challenge == "dns-01" else ""
        config = ROOM / f"{name}.yaml"
        config.write_text(f"""
admin: {{address: "{self.admin}"}}
acme:
  directory: {DIRECTORY}
  terms_agreed: true
  contact: [ops@example.com]
  ca: [ca.crt]
  store: {store}
  challenge: {challenge}
  external_account: {{key_id: {KEY_ID}, key_file: eab.key}}
  {hook}
listeners:
  http: {{address: "{address}:{HTTP}"}}
  https: {{address: "{address}:{HTTPS}", tls: {{acme: {{names: {json.dumps(names)}}}}}}}
routes:
  - filters: [{{direct: {{status: 200, body: hello}}}}]
""")
        self.process = start(name, TIDEGATE, "run", "--config", config, "--workers", "1", NO_COLOR="1")

    def shown(self, name):
        return until(f"a certificate for {name}", lambda: shown(self.address, HTTPS, name))

    def until_listening(self):
        until("its listener", lambda: get(f"http://{self.address}:{HTTP}/") == "hello")

    def metric(self, name):
        lines = get(f"http://{self.admin}/metrics").splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " ")), None)

    def stop(self):
        stop(self.process)


def authority():
    """Pebble with a DNS server of its own, and what it takes to trust it."""
    run = lambda *command: subprocess.run([str(word) for word in command], check=True, capture_output=True, cwd=ROOM)
    key = ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out")
    run("openssl", *key, "ca.key")
    run("openssl", "req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=test", "-days", "2", "-out", "ca.crt")
    run("openssl", *key, "pebble.key")
    run("openssl", "req", "-new", "-key", "pebble.key", "-subj", "/CN=pebble", "-out", "pebble.csr")
    (ROOM / "extensions").write_text("basicConstraints=critical,CA:FALSE\nsubjectAltName=IP:127.0.0.1\n")
    run("openssl", "x509", "-req", "-in", "pebble.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", "extensions", "-out", "pebble.crt")
    (ROOM / "eab.key").write_text(KEY)
    port, management, dns, records = (free_port() for _ in range(4))
    (ROOM / "pebble.json").write_text(json.dumps({"pebble": {
        "listenAddress": f"127.0.0.1:{port}", "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": "pebble.crt", "privateKey": "pebble.key", "httpPort": HTTP, "tlsPort": HTTPS,
        "externalAccountBindingRequired": True, "externalAccountMACKeys": {KEY_ID: KEY}, "keyAlgorithm": "ecdsa",
        "retryAfter": {"authz": 1, "order": 1},
        "profiles": {"default": {"description": "short", "validityPeriod": LIFE}}}}))
    start("dns", BIN / "pebble-challtestsrv", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-defaultIPv6", "",
          "-dnsserver", f"127.0.0.1:{dns}", "-management", f"127.0.0.1:{records}")
    os.chdir(ROOM)
    start("pebble", BIN / "pebble", "-config", "pebble.json", "-strict", "-dnsserver", f"127.0.0.1:{dns}", PEBBLE_VA_NOSLEEP="1")
    trust = ssl.create_default_context(cafile=ROOM / "ca.crt")
    root = until("Pebble to answer", lambda: get(f"https://127.0.0.1:{management}/roots/0", trust))
    (ROOM / "hook").write_text(f"""#!/bin/sh
case $1 in add) verb=set-txt;; remove) verb=clear-txt;; esac
exec curl -sS --fail --noproxy '*' -d "{{\\"host\\":\\"$2.\\",\\"value\\":\\"$3\\"}}" "http://127.0.0.1:{records}/$verb"
""")
    (ROOM / "hook").chmod(0o700)
    return f"https://127.0.0.1:{port}/dir", ssl.create_default_context(cadata=root), f"http://127.0.0.1:{records}"


def first_certificates():
    proxy = Tidegate("http-01", ["a.tidegate.test", "b.tidegate.test"])
    serials = {proxy.shown("a.tidegate.test"), proxy.shown("b.tidegate.test")}
    assert len(serials) == 2
    good("first certificates by http-01, one per name")
    renewals(proxy)
    proxy.stop()
    proxy = Tidegate("tls-alpn-01", ["c.tidegate.test"], "tls-alpn-01")
    proxy.shown("c.tidegate.test")
    good("a first certificate by tls-alpn-01")
    proxy.stop()
    proxy = Tidegate("dns-01", ["*.d.tidegate.test"], "dns-01")
    proxy.shown("x.d.tidegate.test")
    good("a first wildcard by dns-01")
    proxy.stop()


def renewals(proxy):
    """Two renewals, and there is a good certificate all the time."""
    seen = []
    end = time.monotonic() + 4 * LIFE
    while len(seen) < 3:
        serial = shown(proxy.address, HTTPS, "a.tidegate.test")
        assert serial, "no certificate while it is renewed"
        if serial not in seen:
            seen.append(serial)
        if time.monotonic() > end:
            fail("certificates are not renewed")
        time.sleep(0.1)
    orders = proxy.metric('tidegate_acme_orders_total{result="ok"}')
    assert orders >= 4, orders
    good(f"two renewals of certificates that live for {LIFE} s, without a gap")


def replicas():
    """Of two names one leads to each replica, so that whoever orders is answered for by the other."""
    names = {"e.tidegate.test": "127.0.0.1", "f.tidegate.test": "127.0.0.2"}
    for name, address in names.items():
        get(f"{RECORDS}/add-a", data=json.dumps({"host": name, "addresses": [address]}).encode())
    store = ROOM / "store-shared"
    root = store / f"127.0.0.1-{hashlib.sha256(DIRECTORY.encode()).hexdigest()[:8]}"
    root.mkdir(mode=0o700, parents=True)
    root.chmod(0o700)
    with open(root / "lock", "w") as lock:
        os.fchmod(lock.fileno(), 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)  # nobody orders before both are there
        both = [Tidegate(f"replica-{address}", list(names), store=store, address=address) for address in names.values()]
        for one in both:
            one.until_listening()
    for name in names:
        until(f"one certificate for {name} at both",
              lambda: len({shown(one.address, HTTPS, name) for one in both} - {None}) == 1
              and all(shown(one.address, HTTPS, name) for one in both))
    good("two replicas serve the same certificates, and one was answered for by the other")
    failed = [one.metric('tidegate_acme_orders_total{result="failed"}') for one in both]
    assert failed == [0, 0], failed
    both[0].process.kill()
    both[0].process.wait()
    started[:] = [entry for entry in started if entry[1] is not both[0].process]
    get(f"{RECORDS}/clear-a", data=json.dumps({"host": "e.tidegate.test"}).encode())
    get(f"{RECORDS}/add-a", data=json.dumps({"host": "e.tidegate.test", "addresses": ["127.0.0.2"]}).encode())
    before = both[1].shown("f.tidegate.test")
    until("the other to renew", lambda: shown("127.0.0.2", HTTPS, "f.tidegate.test") not in (before, None), 3 * LIFE)
    good("after one was killed the other renews")
    both[1].stop()


if __name__ == "__main__":
    os.environ["no_proxy"] = "*"
    TIDEGATE = pathlib.Path(sys.argv[1]).resolve()
    for tool in ("go", "openssl", "curl"):
        shutil.which(tool) or sys.exit(f"{tool} is needed and not there")
    BIN = build()
    with tempfile.TemporaryDirectory(prefix="tidegate-acme.") as room:
        ROOM = pathlib.Path(room)
        HTTP, HTTPS = free_port("127.0.0.1", "127.0.0.2"), free_port("127.0.0.1", "127.0.0.2")
        try:
            DIRECTORY, ROOT, RECORDS = authority()
            first_certificates()
            replicas()
        finally:
            for _, process in started:
                if process.poll() is None:
                    process.kill()
                    process.wait()
    print(f"pebble: {checks} passed, 0 failed")
