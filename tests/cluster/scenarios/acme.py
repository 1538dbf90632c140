"""Certificates by ACME that two replicas share as Secrets, with the chart's role and no other rights, from an authority that others
have written: ordered once, served by both; who dies while it orders is followed by the other."""
import base64, pathlib, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *

sys.path.insert(0, f"{ROOT}/tests/acme")
import pebble

os.environ["no_proxy"] = "*"
os.environ["PEBBLE_AUTHZREUSE"] = "0"  # each order is asked for
HOSTS = {"one.tidegate.test": "10.99.250.11", "other.tidegate.test": "10.99.250.12"}
LEASE = "/apis/coordination.k8s.io/v1/namespaces/acme/leases/tidegate-acme"
SECRETS = "/api/v1/namespaces/acme/secrets"
began = time.monotonic()

# The authority. Its certificates live long, so that nothing is ordered that the scenario does not ask for.
pebble.ROOM, pebble.HTTP, pebble.HTTPS, pebble.LIFE = RUN / "pebble", 80, 443, 90 * 86400
pebble.ROOM.mkdir()
pebble.BIN = pebble.build()
replicas = []


def run(directory, records):
    kubectl("create", "namespace", "acme")
    extra = {"ca": ["ca.crt"], "external_account": {"key_id": pebble.KEY_ID, "key_file": "eab.key"}}
    parts = [word for name in ("rbac", "acme", "classes", "config") for word in ("--show-only", f"templates/{name}.yaml")]
    chart = subprocess.run(
        [os.environ["HELM"], "template", "acme", f"{ROOT}/deploy/helm/tidegate", "--namespace", "acme", *parts,
         "--set", "acme.enabled=true,acme.termsAgreed=true,acme.email=ops@example.com,ingressClass.name=acme,gatewayClass.enabled=false",
         "--set", f"acme.directory={directory}", "--set-json", f"config.acme={json.dumps(extra)}"],
        check=True, capture_output=True, text=True).stdout
    kubectl("apply", "-f", "-", text=chart)
    config = pebble.ROOM / "tidegate.yaml"
    config.write_text(api("GET", "/api/v1/namespaces/acme/configmaps/acme-tidegate")["data"]["tidegate.yaml"])
    for at, (host, address) in enumerate(HOSTS.items()):
        replicas.append(Tidegate("--config", config, "--ingress-tls-address", f"{address}:443", name=f"replica-{at}", account="acme-tidegate",
                                 namespace="acme", admin=f"10.99.0.1:{9905 + at}", ingress=address))
        # The authority asks one replica for the one name and the other for the other.
        leads(records, host, address)
    for one in replicas:
        one.ready()
    apply(deployment("web", 1) + f"""
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: web, annotations: {{tidegate.dev/acme: "true"}}}}
spec:
  ingressClassName: acme
  tls: [{{hosts: {json.dumps(list(HOSTS))}}}]
  rules:""" + "".join(f"""
  - host: {host}
    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}""" for host in HOSTS))
    first = {host: until(f"one certificate for {host}, by both", lambda: same(host), 60) for host in HOSTS}
    if orders() != 2 or failed() != 0:
        sys.exit(f"{orders()} orders for two names, {failed()} of them failed")
    until("the lock to be given back", lambda: holder() == "", 20)
    secrets = listed("app.kubernetes.io%2Fmanaged-by%3Dtidegate")
    found = sorted((one["type"], one["metadata"]["annotations"].get("tidegate.dev/acme-hostname", "")) for one in secrets)
    own, tls = "tidegate.dev/acme", "kubernetes.io/tls"
    if found != sorted([(own, "")] + [(kind, host) for kind in (own, tls) for host in HOSTS]):
        sys.exit(f"other Secrets than expected: {found}")
    certificate = next(one for one in secrets if one["type"] == tls)
    for part, words in (("tls.crt", b"BEGIN CERTIFICATE"), ("tls.key", b"BEGIN PRIVATE KEY")):
        assert words in base64.b64decode(certificate["data"][part]), part
    print(f"two names: {orders()} orders, one certificate each at both replicas, {time.monotonic() - began:.1f} s")

    # What is deleted is ordered anew; who does it is killed.
    host = certificate["metadata"]["annotations"]["tidegate.dev/acme-hostname"]
    kubectl("delete", "secret", "-n", "acme", certificate["metadata"]["name"])
    ordering = until("one to order again", lambda: next((one for one in replicas if state(one, host) == "being ordered"), None), 20)
    until("its answer, which all give now", lambda: listed("tidegate.dev%2Facme-use%3Danswer"), 20)
    ordering.process.kill()
    ordering.process.wait()
    killed = time.monotonic()
    left = next(one for one in replicas if one is not ordering)
    address = list(HOSTS.values())[replicas.index(left)]
    leads(records, host, address)
    while (now := pebble.shown(address, 443, host)) == first[host]:
        if time.monotonic() > killed + 60:
            sys.exit("the other one does not go on")
        time.sleep(0.1)
    if now is None:
        sys.exit("there was no certificate for a while")
    print(f"its holder died: another certificate after {time.monotonic() - killed:.1f} s, the old one until then, {orders()} orders in all")
    if orders() != 4 or failed(left) != 0:
        sys.exit(f"{orders()} orders, {failed(left)} of them failed")
    until("the lock to be given back", lambda: holder() == "", 20)
    if listed("tidegate.dev%2Facme-use%3Danswer"):
        sys.exit("an answer was left behind")
    if (code := left.stop()) != 0:
        sys.exit(f"it ended with {code}")
    for log in RUN.glob("replica-*.log"):
        if "PRIVATE" in log.read_text():
            sys.exit(f"a key is in {log}")
    kubectl("delete", "ingress,deployment,service", "web", "--wait=false")
    kubectl("delete", "-f", "-", "--wait=false", text=chart)
    kubectl("delete", "namespace", "acme", "--wait=false")


def leads(records, host, address):
    pebble.get(f"{records}/clear-a", data=json.dumps({"host": host}).encode())
    pebble.get(f"{records}/add-a", data=json.dumps({"host": host, "addresses": [address]}).encode())


def same(host):
    """The serial number of the certificate that both show, if it is one."""
    shown = {pebble.shown(address, 443, host) for address in HOSTS.values()}
    return len(shown) == 1 and shown.pop()


def orders():
    return (pebble.ROOM / "pebble.log").read_text(errors="replace").count("Added order")


def failed(*of):
    return sum(one.metric('tidegate_acme_orders_total{result="failed"}') for one in of or replicas)


def listed(label):
    return api("GET", f"{SECRETS}?labelSelector={label}")["items"]


def holder():
    return api("GET", LEASE)["spec"].get("holderIdentity", "")


def state(one, host):
    items = json.loads(one.admin("/certificates")[1])["items"]
    return next((item["state"] for item in items if item["name"] == host), "")


try:
    directory, pebble.ROOT, records = pebble.authority()
    run(directory, records)
finally:
    for process in [one.process for one in replicas] + [process for _, process in pebble.started]:
        if process.poll() is None:
            process.kill()
            process.wait()
