"""A Deployment is scaled and rolled under load of every protocol, its pods ending at once when they are told to; and how fast a change of
endpoints is live. RATE requests a second in all (1000 if not given)."""
import http.client, json, pathlib, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *

FLIPS = 300
RELAY = "10.99.250.3"

setup()
apply(deployment("web", 2) + deployment("steady", 1) + gateway("edge", GATEWAY) + route("web", "web", "web.example")
      + route("steady", "steady", "steady.example") + ingress("web", "web", "ingress.example"))
apply(f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: relay}}
spec:
  gatewayClassName: tidegate
  addresses: [{{type: IPAddress, value: {RELAY}}}]
  listeners: [{{name: tcp, port: 7000, protocol: TCP}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: web}}
spec:
  parentRefs: [{{name: relay}}]
  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]
""")
tidegate = Tidegate()
print(f"ready {tidegate.ready() * 1000:.0f} ms after its start")
for address, host in ((GATEWAY, "web.example"), (INGRESS, "ingress.example")):
    until(f"{host} to be served", lambda: get(address, host)[0] == 200)


def alive():
    """The names of the pods that are to answer."""
    items = api("GET", "/api/v1/namespaces/default/pods?labelSelector=app%3Dweb")["items"]
    return {item["metadata"]["name"] for item in items if "deletionTimestamp" not in item["metadata"]
            and any(one["type"] == "Ready" and one["status"] == "True" for one in item.get("status", {}).get("conditions", []))}


def answering():
    """The names of pods that answer."""
    answers = [get(GATEWAY, "web.example") for _ in range(40)]
    return {json.loads(body)["pod"] for status, body in answers if status == 200}


def roll():
    """Until none of the pods is one of before."""
    before, since = alive(), time.monotonic()
    kubectl("rollout", "restart", "deployment", "web")
    kubectl("rollout", "status", "deployment", "web", "--timeout=120s")
    until("new pods only", lambda: not answering() & before)
    print(f"{len(before)} pods rolled in {time.monotonic() - since:.1f} s", flush=True)


def scale(replicas):
    since = time.monotonic()
    kubectl("scale", "deployment", "web", f"--replicas={replicas}")
    until(f"{replicas} pods", lambda: len(alive()) == replicas)
    until("no others to answer", lambda: answering() <= alive())
    print(f"{replicas} pods {time.monotonic() - since:.1f} s after the scaling", flush=True)


until("TCP to be relayed", lambda: get(RELAY, "any.example", port=7000)[0] == 200)
until("steady.example to be served", lambda: get(GATEWAY, "steady.example")[0] == 200)
everything = subprocess.Popen([os.environ["LOAD"], "-http", f"{GATEWAY}:80", "-host", "web.example", "-steady", "steady.example",
                               "-tcp", f"{RELAY}:7000", "-rate", os.environ.get("RATE", "1000")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
ingress_load = Load(INGRESS, "ingress.example")
ingress_load.start()
since = time.monotonic()
roll()
for replicas in (5, 20):
    scale(replicas)
roll()
for replicas in (3, 1):
    scale(replicas)
roll()
scale(3)
passed = time.monotonic() - since
ingress_load.ends = True
ingress_load.join()
told = json.loads(everything.communicate(timeout=60)[0])
print(f"{ingress_load.host}: {ingress_load.good} requests went well, {len(ingress_load.bad)} did not {ingress_load.bad[:5]}")
for name, tally in told.items():
    print(f"{name}: {tally['good']} went well, {tally['bad']} failed, {tally['cut']} were cut {tally['errors'] or ''}")
print(f"{sum(tally['good'] for tally in told.values()) / passed:.0f} a second")
if ingress_load.bad or any(tally["bad"] for tally in told.values()) or told["websocket-steady"]["cut"]:
    sys.exit("requests failed")
if not all(tally["good"] for tally in told.values()):
    sys.exit("there was no load")

# One slice that points to one pod or to another; from the API server's answer to the first request that follows.
items = api("GET", "/api/v1/namespaces/default/pods?labelSelector=app%3Dweb")["items"]
addresses = [item["status"]["podIP"] for item in items if "deletionTimestamp" not in item["metadata"]][:2]
apply(f"""
apiVersion: v1
kind: Service
metadata: {{name: manual}}
spec: {{ports: [{{port: 80, targetPort: 3000}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: manual, labels: {{kubernetes.io/service-name: manual}}}}
addressType: IPv4
ports: [{{port: 3000}}]
endpoints: [{{addresses: [{addresses[0]}]}}]
---""" + route("manual", "manual", "manual.example"))
until("the slice to be served", lambda: get(GATEWAY, "manual.example")[0] == 200)
patcher = http.client.HTTPSConnection("10.99.0.1", 6443, context=tls)
asker = http.client.HTTPConnection(GATEWAY, 80)


def ask():
    asker.request("GET", "/", headers={"Host": "manual.example"})
    answer = asker.getresponse()
    text = answer.read()
    if answer.status != 200:
        sys.exit(f"a flip of endpoints cost a request: {answer.status} {text}")
    return json.loads(text)["pod"]


names = {item["status"]["podIP"]: item["metadata"]["name"] for item in items}
sent, answered = [], []
for flip in range(FLIPS):
    address = addresses[(flip + 1) % 2]
    start = time.perf_counter()
    patcher.request("PATCH", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/manual",
                    json.dumps({"endpoints": [{"addresses": [address]}]}), {"Content-Type": "application/merge-patch+json"})
    answer = patcher.getresponse()
    answer.read()
    middle = time.perf_counter()
    while ask() != names[address]:
        if time.perf_counter() > middle + 10:
            sys.exit("a change of endpoints never came")
    end = time.perf_counter()
    sent.append((end - start) * 1000)
    answered.append((end - middle) * 1000)
    time.sleep(0.02)
for what, values in (("its being sent", sent), ("the API server's answer", answered)):
    values.sort()
    print(f"endpoints live after {what}: p50 {values[len(values) // 2]:.1f} ms, p99 {values[len(values) * 99 // 100]:.1f} ms, "
          f"most {values[-1]:.1f} ms ({FLIPS} changes)")
if (code := tidegate.stop()) != 0:
    sys.exit(f"it ended with {code}")
