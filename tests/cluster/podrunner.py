#!/usr/bin/env python3
"""podrunner: plays scheduler + kubelet for one node, without a container engine.

Each pod gets its own network namespace (veth to bridge br0 of $NS, address 10.99.x.y), its own
root directory (chroot) holding a static binary chosen by image name, the pod spec's env, args and
secret/configMap volumes. Ready only after every declared container port / known port accepts TCP.
Standard library only; tests/cluster/run starts it inside the namespace.
Image map: IMAGE_MAP="gateway-api/echo-basic=/path/echo-basic,coredns/coredns=/path/coredns"
"""
import base64, datetime, ipaddress, json, os, shutil, signal, socket, ssl, subprocess, sys, time, urllib.error, urllib.request

NS = os.environ["NS"]
RUN = os.environ["RUN"]
API = os.environ.get("API", "https://10.99.0.1:6443")
IMAGES = dict(kv.split("=", 1) for kv in os.environ["IMAGE_MAP"].split(","))
NODE, HOSTIP = "runner", "10.99.0.1"
ctx = ssl.create_default_context(cafile=f"{RUN}/ca.crt")
ctx.load_cert_chain(f"{RUN}/admin.crt", f"{RUN}/admin.key")
now = lambda: datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
used = set()  # every address any pod of this cluster has held in this run: never handed out twice
pods = {}  # uid -> dict(proc, ns, ip, root, started)


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
        "conditions": [{"type": "Ready", "status": "True", "reason": "PodRunner", "message": "process runner",
                        "lastHeartbeatTime": now(), "lastTransitionTime": now()}]}}, "application/merge-patch+json")


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
    log = open(f"{RUN}/pods/{m['namespace']}_{m['name']}.log", "ab")
    proc = subprocess.Popen(["nsenter", f"--net=/run/netns/{ns}", "chroot", root, "/app", *c.get("args", [])],
                            env={**env, "PATH": os.environ["PATH"]}, stdout=log, stderr=log)
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
register_node()
try:
    while True:
        turn()
        time.sleep(0.3)
finally:
    for u in list(pods):
        stop(u)
