"""Pods with identities from files: routes of Services run by mTLS between their sidecars, who is not let in gets nothing, and clear text is taken
where it may be. And of HTTPRoutes and GRPCRoutes that want the same, one is told that it is not attached."""
import collections, json, pathlib, re, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *

ID = "spiffe://cluster.test/ns/shop/sa/{}"
IDENTITIES = RUN / "identities"


def sh(line):
    subprocess.run(["bash", "-ceu", line], cwd=IDENTITIES, check=True, capture_output=True)


def identify(name):
    """A certificate that says who a pod is, where its sidecar reads it."""
    sh(f"""mkdir {name}
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out {name}/tls.key
openssl req -new -key {name}/tls.key -subj /CN={name} | openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -out {name}/tls.crt -extfile \\
  <(printf 'subjectAltName=URI:{ID.format(name)}\\nbasicConstraints=critical,CA:FALSE\\nkeyUsage=digitalSignature')
cp ca.crt {name}/ca.crt
chmod -R a+rX . {name}""")


def pod(name, *args):
    """A pod with its sidecar, which the host's root has: the identity is a path there."""
    identify(name)
    field = lambda name, path: {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
    sidecar = ["sidecar", "--transparent", "--kubernetes", "--access-log", "--identity", str(IDENTITIES / name), *args]
    apply(json.dumps({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"initContainers": [
            {"name": "rules", "image": "tidegate-init", "args": ["--proxy-uid", "2102"], "securityContext": {"runAsUser": 0}},
            {"name": "tidegate", "image": "tidegate", "restartPolicy": "Always", "args": sidecar, "securityContext": {"runAsUser": 2102},
             "startupProbe": {"httpGet": {"path": "/readyz", "port": 4191}}}],
            "containers": [{"name": "app", "image": IMAGE, "env": [field("POD_NAME", "metadata.name"), field("NAMESPACE", "metadata.namespace")]}]}}))


def service(name, mtls=True):
    apply(json.dumps({"apiVersion": "v1", "kind": "Service",
                      "metadata": {"name": name, "namespace": "shop", "annotations": {"tidegate.dev/mtls": "true"} if mtls else {}},
                      "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 3000, "appProtocol": "http"}]}}))
    return api("GET", f"/api/v1/namespaces/shop/services/{name}")["spec"]["clusterIP"]


def ask(address, *args, count=1):
    """What the client's app is answered: statuses, and the pods that answered."""
    inside = json.loads((RUN / "pods" / "shop_client.json").read_text())["prefix"][:2]
    line = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "curl", "-s", "-m", "10", "-w", "\n%{http_code}\n", *args,
            *[f"http://{address}/"] * count]
    text = subprocess.run([*inside, *line], capture_output=True, text=True).stdout
    return collections.Counter(re.findall(r"^(\d\d\d)$", text, re.M)), collections.Counter(re.findall(r'"pod": *"([^"]+)"', text))


def log(name):
    """The lines of the access log of a pod's sidecar."""
    lines = (RUN / "pods" / f"shop_{name}_tidegate.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


setup()
IDENTITIES.mkdir()
for folder in (RUN, IDENTITIES):
    folder.chmod(0o755)
sh("""openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -subj /CN=ca -days 2 -out ca.crt -addext keyUsage=critical,keyCertSign""")
apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")
rules = next(part for part in pathlib.Path(f"{ROOT}/deploy/kubernetes/sidecar.yaml").read_text().split("\n---\n") if "kind: ClusterRole\n" in part)
apply(rules)
apply("""
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: tidegate-sidecar}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: tidegate-sidecar}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:serviceaccounts:shop"}]
""")
until("the service account", lambda: subprocess.run([f"{BIN}/kubectl", "get", "sa", "default", "-n", "shop"], capture_output=True).returncode == 0)
tidegate = Tidegate("--mesh")
tidegate.ready()

web, v1, v2, bank, open_ = (service(name, name != "open") for name in ("web", "web-v1", "web-v2", "bank", "open"))
pod("client")
for name in ("web-v1", "web-v2"):
    pod(name, "--mtls", "strict", "--allow", "/ns/shop/sa/client")
pod("bank", "--mtls", "strict", "--allow", "/ns/shop/sa/teller")
pod("open", "--mtls", "permissive")
apply("""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{headers: [{name: x-to, value: two}]}]
    backendRefs: [{name: web-v2, port: 80}]
  - backendRefs: [{name: web-v1, port: 80, weight: 3}, {name: web-v2, port: 80, weight: 1}]
""")
kubectl("wait", "--for=condition=Ready", "pod", "--all", "-n", "shop", "--timeout=120s")
until("the route to be served", lambda: ask(web)[0] == {"200": 1})

codes, pods = ask(web, "-H", "x-to: two", count=20)
if (codes, pods) != ({"200": 20}, {"web-v2": 20}):
    sys.exit(f"by header: {codes} {pods}")
codes, pods = ask(web, count=400)
print(f"by weight: {dict(pods)}")
if codes != {"200": 400} or not 50 <= pods["web-v2"] <= 150:  # 100 are expected; 5.8 standard deviations
    sys.exit(f"by weight: {codes} {pods}")
for name in ("web-v1", "web-v2"):
    if strangers := [line for line in log(name) if line["outcome"] == "answered" and line.get("identity") != ID.format("client")]:
        sys.exit(f"{name} has answered {strangers[:2]}")
print("routes of Services run by mTLS")

# Nobody else: in clear text, or with another name.
address = api("GET", "/api/v1/namespaces/shop/pods/web-v1")["status"]["podIP"]
if (status := get(address, address, port=3000)[0]) != 0:
    sys.exit(f"clear text is answered with {status}")
until("that to be told", lambda: any(line["outcome"] == "mtls_plain" for line in log("web-v1")))
if (codes := ask(bank)[0]) != {"502": 1}:
    sys.exit(f"the bank answers with {codes}")
until("that to be told", lambda: any(line["outcome"] == "mtls_not_allowed" for line in log("bank")))

# In clear text where nothing is said, and by mTLS from the moment that it is.
if (codes := ask(open_)[0]) != {"200": 1} or any(line.get("identity") for line in log("open")):
    sys.exit(f"in clear text: {codes}")
service("open")
until("mTLS", lambda: ask(open_)[0] == {"200": 1} and any(line.get("identity") == ID.format("client") for line in log("open")))
print("who is not let in gets nothing, and permissive takes both")


def told(kind, name):
    """The Accepted condition of a route's only parent."""
    parents = api("GET", f"/apis/gateway.networking.k8s.io/v1/namespaces/shop/{kind}/{name}").get("status", {}).get("parents") or [{}]
    found = [(one["status"], one["reason"]) for one in parents[0].get("conditions", []) if one["type"] == "Accepted"]
    return found[0] if found else None


# At a Service GRPCRoutes go first; at a Gateway the older one stays, and the other one takes its turn.
until("the route to be told", lambda: told("httproutes", "split") == ("True", "Accepted"))
route = lambda kind, name, parent: apply(json.dumps({
    "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"},
    "spec": {"parentRefs": [parent], "hostnames": ["a.example"], "rules": [{"backendRefs": [{"name": "web-v1", "port": 80}]}]}}))
route("GRPCRoute", "calls", {"group": "", "kind": "Service", "name": "web"})
until("the conflict at the Service", lambda: told("httproutes", "split") == ("False", "Conflicted") and told("grpcroutes", "calls") == ("True", "Accepted"))
kubectl("delete", "grpcroute", "calls", "-n", "shop")
until("its end", lambda: told("httproutes", "split") == ("True", "Accepted") and ask(web)[0] == {"200": 1})
apply(f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec: {{gatewayClassName: tidegate, addresses: [{{value: {GATEWAY}}}], listeners: [{{name: http, port: 80, protocol: HTTP}}]}}
""")
route("HTTPRoute", "older", {"name": "edge"})
until("the older", lambda: told("httproutes", "older") == ("True", "Accepted"))
time.sleep(1.1)  # age is in whole seconds
route("GRPCRoute", "a-younger", {"name": "edge"})
until("the conflict at the Gateway", lambda: told("grpcroutes", "a-younger") == ("False", "Conflicted"))
if told("httproutes", "older") != ("True", "Accepted"):
    sys.exit("the older one was told otherwise")
kubectl("delete", "httproute", "older", "-n", "shop")
until("the younger one's turn", lambda: told("grpcroutes", "a-younger") == ("True", "Accepted"))
print("of HTTPRoutes and GRPCRoutes one is attached")
if (code := tidegate.stop()) != 0:
    sys.exit(f"it ended with {code}")
kubectl("delete", "namespace", "shop", "--wait=false")
