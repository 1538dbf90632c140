"""Requests through a Gateway and an Ingress while a Deployment is scaled and rolled, and how fast a change of endpoints is live."""
import http.client, json, pathlib, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *

FLIPS = 300

setup()
apply(deployment("web", 2) + gateway("edge", GATEWAY) + route("web", "web", "web.example") + ingress("web", "web", "ingress.example"))
tidegate = Tidegate()
print(f"ready {tidegate.ready() * 1000:.0f} ms after its start")
for address, host in ((GATEWAY, "web.example"), (INGRESS, "ingress.example")):
    until(f"{host} to be served", lambda: get(address, host)[0] == 200)


def answering(address, host):
    status, body = get(address, host)
    return json.loads(body)["pod"] if status == 200 else None


def pods():
    return {answering(GATEWAY, "web.example") for _ in range(40)} - {None}


loads = [Load(GATEWAY, "web.example"), Load(INGRESS, "ingress.example")]
for load in loads:
    load.start()
for replicas in (5, 1, 3):
    since = time.monotonic()
    kubectl("scale", "deployment", "web", f"--replicas={replicas}")
    until(f"{replicas} pods to answer", lambda: len(pods()) == replicas)
    print(f"{replicas} pods answer {time.monotonic() - since:.1f} s after the scaling")
before = pods()
kubectl("rollout", "restart", "deployment", "web")
kubectl("rollout", "status", "deployment", "web", "--timeout=120s")
until("new pods only", lambda: not pods() & before)
for load in loads:
    load.ends = True
    load.join()
    print(f"{load.host}: {load.good} requests went well, {len(load.bad)} did not {load.bad[:5]}")
if any(load.bad for load in loads):
    sys.exit("requests failed")

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
