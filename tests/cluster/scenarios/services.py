"""Gateways with Services of their own, on two pods of Tidegate: two Gateways on port 80 with an address each, a listener that comes and goes,
Tidegate's own pods replaced under load, what others do to the Services, and one of the two pods that dies without a word."""
import http.client, json, os, pathlib, signal, subprocess, sys, threading, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from balancer import Balancer
from cluster import *

G = "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways"
S = "/api/v1/namespaces/default/services"


def gateway_of(name, more=""):
    return f"""
{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: default}}, spec: {{gatewayClassName: tidegate,
  infrastructure: {{labels: {{team: {name}}}}}, listeners: [{{name: http, port: 80, protocol: HTTP}}{more}]}}}}
---"""


def address(name):
    """Where a Gateway is, once it is served."""
    status = api("GET", f"{G}/{name}").get("status", {})
    is_programmed = any(one["type"] == "Programmed" and one["status"] == "True" for one in status.get("conditions", []))
    return is_programmed and status["addresses"][0]["value"]


def pod(at, host="any.example", port=80):
    status, body = get(at, host, port=port)
    return json.loads(body)["pod"].split("-")[0] if status == 200 else status


def targets(name):
    return {port["port"]: port["targetPort"] for port in api("GET", f"{S}/{name}-tidegate")["spec"]["ports"]}


def is_tidegate(process):
    try:
        return b"--gateway-services" in (process / "cmdline").read_bytes()
    except OSError:
        return False


class Fresh(threading.Thread):
    """Requests with a connection each."""

    def __init__(self, at):
        super().__init__(daemon=True)
        self.at, self.ends, self.good, self.bad = at, False, 0, []

    def run(self):
        while not self.ends:
            since = time.monotonic()
            status, body = get(self.at, "any.example")
            if status == 200:
                self.good += 1
            else:
                self.bad.append((round(since, 2), status, body[:80]))
            time.sleep(0.005)


class Kept(Fresh):
    """Requests one after the other over one connection. One that ends between two of them is opened anew, as clients do (RFC 9112 §9.3.1)."""

    def run(self):
        connection, answered = None, 0
        while not self.ends:
            try:
                connection = connection or http.client.HTTPConnection(self.at, 80, timeout=10)
                connection.request("GET", "/", headers={"Host": "any.example"})
                answer = connection.getresponse()
                text = answer.read()
                answered += 1
                if answer.status == 200:
                    self.good += 1
                else:
                    self.bad.append((answer.status, text[:80]))
            except OSError as error:
                if not answered or isinstance(error, TimeoutError):
                    self.bad.append(repr(error))
                connection, answered = None, 0


class Under:
    """What is done under load, of which no request may fail."""

    def __init__(self, what, *addresses):
        self.what = what
        self.all = [kind for at in addresses for kind in (Kept(at), Fresh(at))]

    def __enter__(self):
        for one in self.all:
            one.start()
        self.since = time.monotonic()

    def __exit__(self, failed, *_):
        for one in self.all:
            one.ends = True
        for one in self.all:
            one.join()
        bad = [failure for one in self.all for failure in one.bad]
        good = sum(one.good for one in self.all)
        print(f"{self.what}: {time.monotonic() - self.since:.1f} s, {good} requests went well, {len(bad)} did not {bad[:5]}", flush=True)
        if not failed and (bad or not good):
            sys.exit("requests failed")


setup()
services()
kubectl("delete", "endpointslice", "-n", "tidegate", "tidegate")
(RUN / "pods.yaml").write_text("drain: {lag: 2s, timeout: 2s}\n")
apply(f"""
apiVersion: v1
kind: Service
metadata: {{name: tidegate, namespace: tidegate}}
spec: {{type: LoadBalancer, selector: {{app: tidegate}}, ports: [{{port: 80}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: tidegate, namespace: tidegate}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: tidegate}}}}
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  template:
    metadata: {{labels: {{app: tidegate}}}}
    spec:
      serviceAccountName: tidegate
      containers:
      - name: tidegate
        image: tidegate-itself
        command: [/tidegate]
        args: [run, --kubernetes, "--config={RUN}/pods.yaml", "--admin=0.0.0.0:9900", --publish-service=tidegate/tidegate,
               --gateway-services=load-balancer, --workers=1]
        env: [{{name: TIDEGATE_LOG, value: "info,tidegate=debug"}}]
        readinessProbe: {{httpGet: {{port: 9900, path: /readyz}}}}
        volumeMounts: [{{name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}}]
      volumes: [{{name: token, emptyDir: {{}}}}]
---""" + deployment("red", 1) + deployment("blue", 1) + gateway_of("red") + gateway_of("blue")
      + route("red", "red", "any.example", parent="red") + route("blue", "blue", "any.example", parent="blue") + """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: moved, namespace: default}
spec:
  parentRefs: [{name: red}]
  hostnames: [moved.example]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /there}}}]}]
""")
balancer = Balancer()
balancer.start()
red, blue = (until(f"Gateway {name} to have an address", lambda: address(name), 120) for name in ("red", "blue"))
for name, at in (("red", red), ("blue", blue)):
    until(f"{name} to answer", lambda: pod(at) == name)
if red == blue or targets("red")[80] == targets("blue")[80]:
    sys.exit(f"they share {red} {blue} {targets('red')} {targets('blue')}")
print(f"red is at {red}:80, blue at {blue}:80; in the pods they are {targets('red')[80]} and {targets('blue')[80]}")
connection = http.client.HTTPConnection(red, 80)
connection.request("GET", "/", headers={"Host": "moved.example"})
if (said := connection.getresponse().getheader("Location")) != "http://moved.example/there":
    sys.exit(f"a redirection to {said}")

with Under("a listener comes and goes", red, blue):
    before = targets("red")[80]
    apply(gateway_of("red", ", {name: more, port: 8080, protocol: HTTP}"))
    until("port 8080", lambda: pod(red, port=8080) == "red")
    if targets("red")[80] != before or pod(blue, port=8080) != 0:
        sys.exit("a port of another")
    apply(gateway_of("red"))
    until("no port 8080", lambda: pod(red, port=8080) == 0)

for turn in ("first", "second"):
    with Under(f"{turn} rollout of Tidegate's pods", red, blue):
        kubectl("rollout", "restart", "deployment", "-n", "tidegate", "tidegate")
        kubectl("rollout", "status", "deployment", "-n", "tidegate", "tidegate", "--timeout=180s")
        pods = lambda: api("GET", "/api/v1/namespaces/tidegate/pods")["items"]
        until("the old pods to be gone", lambda: len(pods()) == 2, 120)
if address("red") != red or targets("red")[80] != before:
    sys.exit("a Gateway has another address or port after a rollout")

with Under("others edit a Service", red, blue):
    api("PATCH", f"{S}/red-tidegate", {"metadata": {"labels": {"team": "other"}, "annotations": {"cloud.example/id": "1"}}, "spec": {"type": "ClusterIP"}})
    repaired = until("it to be put right", lambda: (one := api("GET", f"{S}/red-tidegate"))["spec"]["type"] == "LoadBalancer"
                     and one["metadata"]["labels"]["team"] == "red" and one)
    if repaired["metadata"]["annotations"].get("cloud.example/id") != "1":
        sys.exit("what others wrote is gone")
    version = lambda: api("GET", f"{S}/red-tidegate")["metadata"]["resourceVersion"]
    time.sleep(1)
    calm = version()
    time.sleep(2)
    if version() != calm:
        sys.exit("somebody fights")
kubectl("delete", "service", "red-tidegate")
until("it to be made again", lambda: (at := address("red")) and pod(at) == "red")
if targets("red")[80] != before:
    sys.exit("another port")

# The holder of the lease dies, and with it who writes; its endpoints are taken out all the same, long before another holds the lease.
lease = "/apis/coordination.k8s.io/v1/namespaces/tidegate/leases/tidegate"
holder = api("GET", lease)["spec"]["holderIdentity"].split("_")[0]
mirrors = lambda: [endpoint for one in api("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")["items"]
                   if one["metadata"]["labels"].get("kubernetes.io/service-name") == "blue-tidegate" for endpoint in one["endpoints"]]
ready = lambda: {one["targetRef"]["name"] for one in mirrors() if one["conditions"]["ready"]}
if holder not in ready():
    sys.exit(f"{holder} is not among {ready()}")
uid = api("GET", f"/api/v1/namespaces/tidegate/pods/{holder}")["metadata"]["uid"]
network = f"{os.environ['NS']}-pod-{uid[:8]}"
theirs = [int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit() and is_tidegate(entry)]
identify = lambda process: subprocess.run(["ip", "netns", "identify", str(process)], capture_output=True, text=True).stdout.strip()
[dying] = [process for process in theirs if identify(process) == network]
since = time.monotonic()
os.kill(dying, signal.SIGKILL)
until("it to be taken out", lambda: holder not in ready(), 14)
print(f"the holder of the lease died, and was out of the slices after {time.monotonic() - since:.1f} s")

kubectl("delete", "gateway", "red")
until("its Service to go", lambda: not [one for one in api("GET", S)["items"] if one["metadata"]["name"] == "red-tidegate"], 60)
until("its slices to go", lambda: "red-tidegate" not in kubectl("get", "endpointslices", "-o", "name"), 60)
balancer.ends = True
