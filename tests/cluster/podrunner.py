#!/usr/bin/env python3
"""podrunner: plays scheduler + kubelet for one node, without a container engine.

Each pod gets its own network namespace (veth to bridge br0 of $NS, address 10.99.x.y), its own
root directory (chroot) holding what the image's name stands for, the pod spec's env, args and
secret/configMap volumes, and the names of Services in /etc/hosts. Ready only after a known port accepts TCP.
Init containers run before, those of `restartPolicy: Always` to the end: Tidegate beside the app (`sidecar`). A Pod may be Tidegate
itself, too, which is ready when its readiness probe says so.
What the programs print is kept with its time and given to the API server that asks for a pod's log; what
tests/cluster/exec needs to run a command in a pod is in $RUN/pods/NAMESPACE_POD.json.
Standard library only; tests/cluster/run starts it inside the namespace.
Image map: IMAGE_MAP="gateway-api/echo-basic=/path/echo-basic,gateway-api/echo-advanced=/path/folder": a static
binary, or a folder with a whole root, whose programs are in /usr/local/bin and begin with `server`, as user 1338.
"""
import base64, datetime, http.server, ipaddress, json, os, shutil, signal, socket, ssl, subprocess, sys, threading, time
import urllib.error, urllib.parse, urllib.request

NS = os.environ["NS"]
RUN = os.environ["RUN"]
API = os.environ.get("API", "https://10.99.0.1:6443")
IMAGES = dict(kv.split("=", 1) for kv in os.environ["IMAGE_MAP"].split(","))
NODE, HOSTIP, KUBELET = "runner", "10.99.0.1", 10250
RUNNER = 10251  # where this program answers, behind tests/cluster/exec
TIDEGATE = os.environ.get("TIDEGATE", "tidegate")
# Images of ours: what they begin with. They run in the host's root, and know the API server as a pod does.
ITSELF = "tidegate-itself"  # the program of a Pod; those of the chart, whose images are not there, are not run
OURS = {"tidegate": [TIDEGATE], "tidegate-init": [TIDEGATE, "sidecar", "init"], ITSELF: [TIDEGATE]}
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
USER = "1338"  # of images that are a folder
MAX_LINES = 20000  # kept of each pod's log
ctx = ssl.create_default_context(cafile=f"{RUN}/ca.crt")
ctx.load_cert_chain(f"{RUN}/admin.crt", f"{RUN}/admin.key")
now = lambda: datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
used = set()  # every address any pod of this cluster has held in this run: never handed out twice
pods = {}  # uid -> dict(proc, ns, ip, root, started)
logs = {}  # (namespace, pod name, container) -> [(time, line)]
hosts = {}  # namespace -> the names of Services as its pods know them


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
        lines = logs.get(tuple(parts[1:4])) if len(parts) == 4 and parts[0] == "containerLogs" else None
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
    server = http.server.ThreadingHTTPServer(("127.0.0.1", RUNNER), Kubelet)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def keep_log(container, pipe):
    lines = logs[container] = []
    with open(f"{RUN}/pods/{'_'.join(container)}.log", "ab") as file:
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
    inits = spec.get("initContainers", [])
    is_ours = image(c) == ITSELF
    if (exe is None and not is_ours) or len(spec["containers"]) != 1 or any(image(i) not in OURS for i in inits):
        return print("no binary for", m["name"], c["image"], [i["image"] for i in inits], flush=True)
    files = {}
    mounts = {x["name"]: x["mountPath"] for x in c.get("volumeMounts", [])}
    for v in spec.get("volumes", []):  # a missing Secret raises 404: retried at the next turn, as kubelet does
        for f, b in volume(m["namespace"], v).items():
            files[mounts[v["name"]].lstrip("/") + "/" + f] = b
    uid = m["uid"]
    ns, root = f"{NS}-pod-{uid[:8]}", f"{RUN}/pods/{uid}"
    os.makedirs(root + "/tmp", exist_ok=True)
    if is_root := not is_ours and os.path.isdir(exe):
        shutil.copytree(exe, root, copy_function=link, dirs_exist_ok=True)
    elif not is_ours:
        shutil.copy(exe, root + "/app")
    os.makedirs(root + "/etc", exist_ok=True)
    name_services(root, m["namespace"])
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
    env = {"HOSTNAME": m["name"], **environment(c, fields), "PATH": os.environ["PATH"]}
    inside = ["nsenter", f"--net=/run/netns/{ns}"]
    chroot = ["chroot", *([f"--userspec={USER}:{USER}"] if is_root else []), root]
    program = ["/usr/local/bin/server"] if is_root else ["/app"]
    with open(f"{RUN}/pods/{m['namespace']}_{m['name']}.json", "w") as file:
        json.dump({"prefix": inside + chroot, "env": [f"{name}={value}" for name, value in env.items()]}, file)
    port = None if is_ours else 53 if exe.endswith("/coredns") else 1883 if "mosquitto" in c["image"] else 8080 if is_root else 3000
    if "UDP_ECHO_SERVER" in env:
        port = None
    app = None if is_ours else [*inside, *named(m["name"]), *chroot, *program, *c.get("args", [])]
    pods[uid] = dict(proc=None, ns=ns, ip=ip, root=root, port=port, ready=False, started=now(), m=m, app=(app, env), inside=inside,
                     fields=fields, inits=inits, account=spec.get("serviceAccountName", "default"), sidecars=[],
                     path=f"/api/v1/namespaces/{m['namespace']}/pods/{m['name']}", c=c, name=m["name"])


def environment(container, fields):
    """Of fields, labels are not known here: they are empty."""
    return {e["name"]: e.get("value", "") if "valueFrom" not in e else fields.get(e["valueFrom"]["fieldRef"]["fieldPath"], "")
            for e in container.get("env", [])}


def image(container):
    return container["image"].rsplit("/", 1)[-1].split(":")[0]


def link(source, to):
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)


def named(name):
    """What gives a program a host's name of its own."""
    return ["unshare", "--uts", "sh", "-c", 'printf %s "$0" >/proc/sys/kernel/hostname; exec "$@"', name]


def begin(s, container, line, env):
    proc = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    threading.Thread(target=keep_log, args=((s["m"]["namespace"], s["name"], container), proc.stdout), daemon=True).start()
    return proc


def beside(s, container):
    """Begins a container of ours in the pod: with a /run of its own, where the service account is."""
    namespace, account = s["m"]["namespace"], s["account"]
    if not any(mount["mountPath"] == ACCOUNT for mount in container.get("volumeMounts", [])):
        account = None
    token = account and api("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
                {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}})
    folder = f"{s['root']}-account"
    os.makedirs(folder, exist_ok=True)
    if account:
        shutil.copy(f"{RUN}/ca.crt", f"{folder}/ca.crt")
        for name, text in (("token", token["status"]["token"]), ("namespace", namespace)):
            with open(f"{folder}/{name}", "w") as file:
                file.write(text)
    user = str(container.get("securityContext", {}).get("runAsUser", 0))
    run = ('mount -t tmpfs tmpfs /run; to=/run/secrets/kubernetes.io/serviceaccount; mkdir -p $to; cp -r "$0/." $to; '
           'user=$1; shift; exec setpriv --reuid $user --regid $user --clear-groups "$@"')
    command = [TIDEGATE, *container["command"][1:]] if container.get("command", [""])[0] == "/tidegate" else OURS[image(container)]
    line = [*s["inside"], *named(s["name"]), "unshare", "--mount", "sh", "-c", run, folder, user, *command, *container.get("args", [])]
    env = {"PATH": os.environ["PATH"], "KUBERNETES_SERVICE_HOST": HOSTIP, "KUBERNETES_SERVICE_PORT": "6443"}
    env |= environment(container, s["fields"])
    return begin(s, container["name"], line, env)


def is_well(s, container, probe="startupProbe"):
    """What its probe says, if it has one."""
    get = container.get(probe, {}).get("httpGet")
    try:
        return not get or urllib.request.urlopen(f"http://{s['ip']}:{get['port']}{get['path']}", timeout=1).status == 200
    except OSError:
        return False


def advance(s):
    """One container after the other, as a kubelet does: an init container has to end well, a sidecar to have started."""
    for sidecar in s["sidecars"]:
        if sidecar["proc"].poll() is not None:
            print("container", s["name"], sidecar["container"]["name"], "ended with", sidecar["proc"].returncode, flush=True)
            sidecar["proc"] = beside(s, sidecar["container"])
    while s["inits"]:
        container = s["inits"][0]
        if container.get("restartPolicy") == "Always":
            if s["sidecars"][-1:] == [] or s["sidecars"][-1]["container"] is not container:
                s["sidecars"].append({"container": container, "proc": beside(s, container)})
            if not is_well(s, container):
                return
        else:
            proc = beside(s, container)
            if proc.wait(60) != 0:
                return print("container", s["name"], container["name"], "ended with", proc.returncode, flush=True)
        s["inits"] = s["inits"][1:]
    if not s["proc"]:
        s["proc"] = begin(s, s["c"]["name"], *s["app"]) if s["app"][0] else beside(s, s["c"])


def name_services(root, namespace):
    with open(f"{root}/etc/hosts", "w") as file:
        file.write(hosts.get(namespace, ""))


def know_services():
    """There is no DNS for pods: they know Services by /etc/hosts."""
    services = [one for one in api("GET", "/api/v1/services")["items"] if one["spec"].get("clusterIP") not in (None, "", "None")]
    lines = lambda namespace: "127.0.0.1 localhost\n" + "".join(
        f"{one['spec']['clusterIP']} " + " ".join(
            ([name] if within == namespace else []) + [f"{name}.{within}{more}" for more in ("", ".svc", ".svc.cluster.local")]) + "\n"
        for one in services for name, within in [(one["metadata"]["name"], one["metadata"]["namespace"])])
    for s in list(pods.values()):
        hosts.setdefault(s["m"]["namespace"], "")
    for namespace in hosts:
        if hosts[namespace] != (text := lines(namespace)):
            hosts[namespace] = text
            for s in pods.values():
                if s["m"]["namespace"] == namespace:
                    name_services(s["root"], namespace)


def listening(ip, port):
    if port is None:
        return True
    try:
        socket.create_connection((ip, port), 0.3).close()
        return True
    except OSError:
        return False


def report(s):
    advance(s)
    alive = s["proc"] is None or s["proc"].poll() is None
    ready = s["proc"] is not None and alive and listening(s["ip"], s["port"]) and is_well(s, s["c"], "readinessProbe")
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
    for proc in [s["proc"]] * (s["proc"] is not None) + [sidecar["proc"] for sidecar in reversed(s["sidecars"])]:
        proc.terminate()
        try:
            proc.wait(5)
        except subprocess.TimeoutExpired:
            proc.kill(); proc.wait()
    subprocess.run(["ip", "netns", "del", s["ns"]])
    for folder in s["root"], s["root"] + "-account":
        shutil.rmtree(folder, ignore_errors=True)


def turn():
    seen = set()
    know_services()
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
    for one in list(pods.values()):
        if one["proc"]:
            one["proc"].terminate()
    for u in list(pods):
        stop(u)
