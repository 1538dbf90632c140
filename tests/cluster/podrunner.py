#!/usr/bin/env python3
"""podrunner: plays scheduler + kubelet for one node, without a container engine.

Each pod gets its own network namespace (veth to bridge br0 of $NS, address 10.99.x.y), its own
root directory (chroot) holding a static binary chosen by image name, the pod spec's env, args and
secret/configMap volumes. Ready only after every declared container port / known port accepts TCP.
What the programs print is kept with its time and given to the API server that asks for a pod's log.
Standard library only; tests/cluster/run starts it inside the namespace.
Image map: IMAGE_MAP="gateway-api/echo-basic=/path/echo-basic,coredns/coredns=/path/coredns"
"""
import base64, datetime, http.server, ipaddress, json, os, shutil, signal, socket, ssl, subprocess, sys, threading, time
import urllib.error, urllib.parse, urllib.request

NS = os.environ["NS"]
RUN = os.environ["RUN"]
API = os.environ.get("API", "https://10.99.0.1:6443")
IMAGES = dict(kv.split("=", 1) for kv in os.environ["IMAGE_MAP"].split(","))
NODE, HOSTIP, KUBELET = "runner", "10.99.0.1", 10250
MAX_LINES = 20000  # kept of each pod's log
ctx = ssl.create_default_context(cafile=f"{RUN}/ca.crt")
ctx.load_cert_chain(f"{RUN}/admin.crt", f"{RUN}/admin.key")
now = lambda: datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
used = set()  # every address any pod of this cluster has held in this run: never handed out twice
pods = {}  # uid -> dict(proc, ns, ip, root, started)
logs = {}  # (namespace, pod name) -> [(time, line)]


def api(method, path, body=None, ctype="application/json"):
    req = urllib.request.Request(API + path, method=method, headers={"Content-Type": ctype},
                                 data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(req, context=ctx, timeout=30) as r:
        return json.load(r)


def sh(*a):
    subprocess.run(a, check=True, stdout=subprocess.DEVNULL)


def register_node():
    try:
        api("POST", "/api/v1/nodes", {"metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"}}})
    except urllib.error.HTTPError as e:
        if e.code != 409:
            raise
    cap = {"cpu": "16", "memory": "32Gi", "pods": "500"}
    api("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": {
        "capacity": cap, "allocatable": cap, "addresses": [{"type": "InternalIP", "address": HOSTIP}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET}},
        "conditions": [{"type": "Ready", "status": "True", "reason": "PodRunner", "message": "process runner",
                        "lastHeartbeatTime": now(), "lastTransitionTime": now()}]}}, "application/merge-patch+json")


class Kubelet(http.server.BaseHTTPRequestHandler):
    """The one thing that the API server asks a kubelet for here: GET /containerLogs/NAMESPACE/POD/CONTAINER."""

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        lines = logs.get(tuple(parts[1:3])) if len(parts) == 4 and parts[0] == "containerLogs" else None
        since = urllib.parse.parse_qs(url.query).get("sinceTime", [""])[0].replace("Z", "+00:00")
        since = datetime.datetime.fromisoformat(since).timestamp() if since else 0
        body = b"".join(line for at, line in list(lines or []) if at >= since)
        self.send_response(200 if lines is not None else 404)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve_logs():
    server = http.server.ThreadingHTTPServer((HOSTIP, KUBELET), Kubelet)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(f"{RUN}/apiserver.crt", f"{RUN}/apiserver.key")
    server.socket = server_tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def keep_log(pod, pipe):
    lines = logs[pod] = []
    with open(f"{RUN}/pods/{pod[0]}_{pod[1]}.log", "ab") as file:
        for line in pipe:
            file.write(line)
            file.flush()
            if len(lines) < MAX_LINES:
                lines.append((time.time(), line))


def volume(ns, v):
    """Returns {relative file: bytes} for a secret or configMap volume (projected token volumes are skipped)."""
    if "secret" in v:
        src, d = v["secret"], api("GET", f"/api/v1/namespaces/{ns}/secrets/{v['secret']['secretName']}").get("data", {})
        data = {k: base64.b64decode(x) for k, x in d.items()}
    elif "configMap" in v:
        src, d = v["configMap"], api("GET", f"/api/v1/namespaces/{ns}/configmaps/{v['configMap']['name']}")
        data = {k: x.encode() for k, x in d.get("data", {}).items()}
    else:
        return {}
    return {i["path"]: data[i["key"]] for i in src["items"]} if src.get("items") else data


def address(p):
    """A pod's IP is immutable once reported: after a restart of the runner the reported one is taken again."""
    ip = p.get("status", {}).get("podIP") or next(
        a for a in (str(ipaddress.ip_address("10.99.1.0") + i) for i in range(1, 40000)) if a not in used)
    used.add(ip)
    return ip


def start(p):
    m, spec = p["metadata"], p["spec"]
    c = spec["containers"][0]
    exe = next((b for pat, b in IMAGES.items() if pat in c["image"]), None)
    if exe is None or len(spec["containers"]) != 1:
        return print("no binary for", m["name"], c["image"], flush=True)
    files = {}
    mounts = {x["name"]: x["mountPath"] for x in c.get("volumeMounts", [])}
    for v in spec.get("volumes", []):  # a missing Secret raises 404: retried at the next turn, as kubelet does
        for f, b in volume(m["namespace"], v).items():
            files[mounts[v["name"]].lstrip("/") + "/" + f] = b
    uid = m["uid"]
    ns, root = f"{NS}-pod-{uid[:8]}", f"{RUN}/pods/{uid}"
    os.makedirs(root + "/tmp", exist_ok=True)
    shutil.copy(exe, root + "/app")
    ip = address(p)
    for f, b in files.items():
        os.makedirs(os.path.dirname(f"{root}/{f}"), exist_ok=True)
        open(f"{root}/{f}", "wb").write(b)
    sh("ip", "netns", "add", ns)
    sh("ip", "link", "add", "v" + uid[:8], "type", "veth", "peer", "name", "eth0", "netns", ns)
    sh("ip", "link", "set", "v" + uid[:8], "master", "br0", "up")
    for a in (["addr", "add", ip + "/16", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"],
              ["route", "add", "default", "via", HOSTIP]):
        sh("ip", "-n", ns, *a)
    fields = {"metadata.name": m["name"], "metadata.namespace": m["namespace"], "metadata.uid": uid,
              "status.podIP": ip, "status.hostIP": HOSTIP, "spec.nodeName": NODE}
    env = {"PATH": "/", "HOSTNAME": m["name"]}
    for e in c.get("env", []):
        env[e["name"]] = e.get("value", "") if "valueFrom" not in e else fields[e["valueFrom"]["fieldRef"]["fieldPath"]]
    proc = subprocess.Popen(["nsenter", f"--net=/run/netns/{ns}", "chroot", root, "/app", *c.get("args", [])],
                            env={**env, "PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    threading.Thread(target=keep_log, args=((m["namespace"], m["name"]), proc.stdout), daemon=True).start()
    port = 53 if exe.endswith("/coredns") else 3000
    if "UDP_ECHO_SERVER" in env:
        port = None
    pods[uid] = dict(proc=proc, ns=ns, ip=ip, root=root, port=port, ready=False, started=now(),
                     path=f"/api/v1/namespaces/{m['namespace']}/pods/{m['name']}", c=c, name=m["name"])


def listening(ip, port):
    if port is None:
        return True
    try:
        socket.create_connection((ip, port), 0.3).close()
        return True
    except OSError:
        return False


def report(s):
    alive = s["proc"].poll() is None
    ready = alive and listening(s["ip"], s["port"])
    if ready == s["ready"]:
        return
    s["ready"], st = ready, "True" if ready else "False"
    cond = [{"type": t, "status": st if t in ("Ready", "ContainersReady") else "True", "lastTransitionTime": now()}
            for t in ("PodScheduled", "Initialized", "ContainersReady", "Ready")]
    api("PATCH", s["path"] + "/status", {"status": {
        "phase": "Running" if alive else "Failed", "conditions": cond, "hostIP": HOSTIP, "podIP": s["ip"], "podIPs": [{"ip": s["ip"]}],
        "startTime": s["started"], "containerStatuses": [{
            "name": s["c"]["name"], "image": s["c"]["image"], "imageID": "file://" + s["root"] + "/app", "ready": ready, "started": ready,
            "restartCount": 0, "state": {"running": {"startedAt": s["started"]}} if alive else {"terminated": {"exitCode": s["proc"].returncode}}}]}},
        "application/strategic-merge-patch+json")
    print("pod", s["name"], s["ip"], "ready" if ready else "not ready", flush=True)


def stop(uid):
    s = pods.pop(uid)
    s["proc"].terminate()
    try:
        s["proc"].wait(5)
    except subprocess.TimeoutExpired:
        s["proc"].kill(); s["proc"].wait()
    subprocess.run(["ip", "netns", "del", s["ns"]])
    shutil.rmtree(s["root"], ignore_errors=True)


def turn():
    seen = set()
    items = api("GET", "/api/v1/pods")["items"]
    used.update(p["status"]["podIP"] for p in items if p.get("status", {}).get("podIP"))  # before any start()
    for p in items:
        m, uid = p["metadata"], p["metadata"]["uid"]
        path = f"/api/v1/namespaces/{m['namespace']}/pods/{m['name']}"
        try:
            if m.get("deletionTimestamp"):
                if uid in pods:
                    stop(uid)
                api("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})
                continue
            seen.add(uid)
            if not p["spec"].get("nodeName"):
                api("POST", path + "/binding", {"metadata": {"name": m["name"]}, "target": {"kind": "Node", "name": NODE}})
            elif uid not in pods:
                start(p)
            if uid in pods:
                report(pods[uid])
        except (OSError, KeyError, subprocess.CalledProcessError) as e:  # HTTPError is an OSError
            print(m["name"], repr(e), getattr(e, "url", ""), flush=True)
    for uid in set(pods) - seen:
        stop(uid)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
serve_logs()
register_node()
try:
    while True:
        try:
            turn()
        except OSError as e:  # as a kubelet: pods go on while the API server is away
            print("the API server:", repr(e), flush=True)
        time.sleep(0.3)
finally:
    for u in list(pods):
        stop(u)
