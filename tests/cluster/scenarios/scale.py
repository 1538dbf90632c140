"""Many objects: how soon a change is live while 200 others are made a second, what that costs, how a start goes, how soon statuses are there.

SCALE=0.1 makes everything a tenth; STARTS=no leaves out the last part. The figures are of one machine that runs etcd, the API server and this client as well."""
import concurrent.futures, http.client, json, multiprocessing, pathlib, sys, threading, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *

SCALE = float(os.environ.get("SCALE", "1"))
SERVICES, ENDPOINTS, RATE, SECONDS = int(1000 * SCALE), 10, int(200 * min(1, SCALE * 2)), 60
INGRESSES, ROUTES, STATUSES = int(20000 * SCALE), int(10000 * SCALE), int(1000 * SCALE)
THREADS = 8
local = threading.local()


def ask(method, path, body=None):
    """Over a connection of the thread's own."""
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    for last in (False, True):
        try:
            if not hasattr(local, "connection"):
                local.connection = http.client.HTTPSConnection("10.99.0.1", 6443, context=tls, timeout=60)
            local.connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": kind})
            answer = local.connection.getresponse()
            text = answer.read()
            if answer.status >= 400:
                sys.exit(f"{method} {path}: {answer.status} {text[:300]}")
            return json.loads(text).get("metadata", {}).get("resourceVersion")
        except OSError:
            del local.connection
            if last:
                raise


def each(what, numbers, do):
    since = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for done in pool.map(do, numbers):
            pass
    print(f"{what} in {time.monotonic() - since:.0f} s", flush=True)


def service(number):
    name = f"s{number}"
    ask("POST", "/api/v1/namespaces/default/services", {"metadata": {"name": name}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}})
    ask("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice_of(name, number, ENDPOINTS))


def addresses(number, count, turn=0):
    return [{"addresses": [f"10.{100 + number // 65536 % 100}.{number // 256 % 256}.{(at + turn) % 250 + 1}"]} for at in range(count)]


def slice_of(name, number, count):
    return {"metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
            "ports": [{"port": 3000}], "endpoints": addresses(number, count)}


def ingress_object(number):
    backend = {"service": {"name": f"s{number % SERVICES}", "port": {"number": 80}}}
    ask("POST", "/apis/networking.k8s.io/v1/namespaces/default/ingresses", {
        "metadata": {"name": f"i{number}"}, "spec": {"ingressClassName": "tidegate", "rules": [
            {"host": f"h{number}.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}})


def route_object(number):
    ask("POST", "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes", {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": f"r{number}"},
        "spec": {"parentRefs": [{"name": "edge"}], "hostnames": [f"r{number}.example"],
                 "rules": [{"backendRefs": [{"name": f"s{number % SERVICES}", "port": 80}]}]}})


def cpu(process):
    fields = open(f"/proc/{process.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(process):
    return next(int(line.split()[1]) / 1024 for line in open(f"/proc/{process.pid}/status") if line.startswith("VmRSS"))


def percentiles(values):
    values.sort()
    return f"p50 {values[len(values) // 2]:.1f} ms, p99 {values[len(values) * 99 // 100]:.1f} ms, most {values[-1]:.1f} ms"


setup()
apply(deployment("web", 2) + gateway("edge", GATEWAY))
until("two pods", lambda: api("GET", "/apis/apps/v1/namespaces/default/deployments/web").get("status", {}).get("readyReplicas") == 2)
items = api("GET", "/api/v1/namespaces/default/pods?labelSelector=app%3Dweb")["items"]
pods = {item["status"]["podIP"]: item["metadata"]["name"] for item in items}
each(f"{SERVICES} Services with {ENDPOINTS} endpoints each", range(SERVICES), service)
each(f"{STATUSES} HTTPRoutes", range(STATUSES), route_object)
apply(f"""
apiVersion: v1
kind: Service
metadata: {{name: manual}}
spec: {{clusterIP: None, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: manual, labels: {{kubernetes.io/service-name: manual}}}}
addressType: IPv4
ports: [{{port: 3000}}]
endpoints: [{{addresses: [{list(pods)[0]}]}}]
---""" + route("manual", "manual", "manual.example"))

# 1. Statuses of routes that have none.
tidegate = Tidegate()
print(f"ready {tidegate.ready() * 1000:.0f} ms after its start with {STATUSES} routes")
since = time.monotonic()


def told():
    routes = api("GET", "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes?limit=5000")["items"]
    return sum(bool(one.get("status", {}).get("parents")) for one in routes) > STATUSES


until("all routes to have a status", told, 300)
print(f"{STATUSES} routes have their status {time.monotonic() - since:.1f} s after that")

# 2. One change among many: how long after the API server's answer to it the first request follows it, and how long after it
# a plain watch has its event, and how long after that event the request follows. The others' changes and that watch are processes of their own, so that they do not wait for each other.
def churn(made):
    def work(worker):
        turn, next_at = 0, time.monotonic()
        mine = list(range(worker, SERVICES, THREADS))
        while True:
            number = mine[turn % len(mine)]
            turn += 1
            ask("PATCH", f"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/s{number}",
                {"endpoints": addresses(number, ENDPOINTS, turn)})
            with made.get_lock():
                made.value += 1
            next_at += THREADS / RATE
            time.sleep(max(0, next_at - time.monotonic()))

    for worker in range(THREADS):
        threading.Thread(target=work, args=(worker,)).start()


def watch(events):
    connection = http.client.HTTPSConnection("10.99.0.1", 6443, context=tls)
    connection.request("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?watch=1&fieldSelector=metadata.name%3Dmanual")
    answer = connection.getresponse()
    while line := answer.readline():
        at = time.perf_counter()
        events.put((json.loads(line)["object"]["metadata"]["resourceVersion"], at))


asker = http.client.HTTPConnection(GATEWAY, 80)


def pod():
    asker.request("GET", "/", headers={"Host": "manual.example"})
    answer = asker.getresponse()
    text = answer.read()
    if answer.status != 200:
        sys.exit(f"a change cost a request: {answer.status} {text[:200]}")
    return json.loads(text)["pod"]


until("the slice to be served", lambda: get(GATEWAY, "manual.example")[0] == 200)
made, events = multiprocessing.Value("L", 0), multiprocessing.Queue()
others = [multiprocessing.Process(target=churn, args=(made,)), multiprocessing.Process(target=watch, args=(events,))]
for other in others:
    other.start()
time.sleep(5)
before, used, since, count = memory(tidegate.process), cpu(tidegate.process), time.monotonic(), made.value
answered, followed, latencies, requests, flip = {}, {}, [], [], 0
while time.monotonic() < since + SECONDS:
    flip += 1
    address = list(pods)[flip % 2]
    version = ask("PATCH", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/manual", {"endpoints": [{"addresses": [address]}]})
    start = answered[version] = time.perf_counter()
    while True:
        asked = time.perf_counter()
        answer = pod()
        requests.append((time.perf_counter() - asked) * 1000)
        if answer == pods[address]:
            break
        if time.perf_counter() > start + 10:
            sys.exit("a change never came")
    followed[version] = time.perf_counter()
    latencies.append((followed[version] - start) * 1000)
    time.sleep(0.05)
passed = time.monotonic() - since
changes = made.value - count
time.sleep(1)
watched, own = [], []
while not events.empty():
    version, at = events.get()
    if version in followed:
        watched.append(max(0, at - answered[version]) * 1000)
        own.append(max(0, followed[version] - max(at, answered[version])) * 1000)
print(f"live after the API server's answer, among {changes / passed:.0f} other changes a second: {percentiles(latencies)} "
      f"({len(latencies)} changes)")
print(f"a request by itself: {percentiles(requests)}")
print(f"the event at a plain watch after that answer: {percentiles(watched)}")
print(f"live after the event at that watch: {percentiles(own)}")
print(f"cores: {(cpu(tidegate.process) - used) / passed:.2f}; memory: {before:.0f} MB before, {memory(tidegate.process):.0f} MB after "
      f"{changes} changes")
for other in others:
    other.kill()
    other.join()
if (code := tidegate.stop()) != 0:
    sys.exit(f"it ended with {code}")

# 3. Starts.
if os.environ.get("STARTS") == "no":
    sys.exit()
each(f"{INGRESSES} Ingresses", range(INGRESSES), ingress_object)
tidegate = Tidegate("--update-status=false")
print(f"{INGRESSES} Ingresses, {STATUSES} routes: ready after {tidegate.ready():.1f} s, {memory(tidegate.process):.0f} MB")
tidegate.stop()
each("Ingresses gone", range(1), lambda _: ask("DELETE", "/apis/networking.k8s.io/v1/namespaces/default/ingresses"))
each(f"{ROUTES} HTTPRoutes", range(STATUSES, ROUTES), route_object)
each(f"{SERVICES * 100} endpoints", range(SERVICES), lambda number: ask(
    "PATCH", f"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/s{number}", {"endpoints": addresses(number, 100)}))
tidegate = Tidegate("--update-status=false")
print(f"{ROUTES} routes, {SERVICES * 100} endpoints: ready after {tidegate.ready():.1f} s, {memory(tidegate.process):.0f} MB")
if (code := tidegate.stop()) != 0:
    sys.exit(f"it ended with {code}")
