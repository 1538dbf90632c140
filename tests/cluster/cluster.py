"""What the scenarios share: kubectl, the API server, Tidegate as a process, a client. tests/cluster/run sets the environment."""
import http.client, json, os, pathlib, ssl, subprocess, sys, threading, time, urllib.request

RUN, BIN, ROOT = (pathlib.Path(os.environ[name]) for name in ("RUN", "BIN", "ROOT"))
API = "https://10.99.0.1:6443"
ADMIN = "10.99.0.1:9900"
GATEWAY, INGRESS = "10.99.250.1", "10.99.250.2"
IMAGE = "registry.k8s.io/gateway-api/echo-basic:v1.5.1"
tls = ssl.create_default_context(cafile=f"{RUN}/ca.crt")
tls.load_cert_chain(f"{RUN}/admin.crt", f"{RUN}/admin.key")


def kubectl(*args, text=None):
    done = subprocess.run([f"{BIN}/kubectl", *args], input=text, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"kubectl {' '.join(args)}: {done.stderr}")
    return done.stdout


def apply(text):
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=text)


def api(method, path, body=None, kind="application/merge-patch+json"):
    request = urllib.request.Request(API + path, method=method, headers={"Content-Type": kind},
                                     data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, context=tls, timeout=30) as answer:
        return json.load(answer)


def until(what, holds, seconds=60):
    end = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > end:
            sys.exit(f"it never came to hold: {what}")
        time.sleep(0.02)


def get(address, host, path="/", port=80):
    """Status and body of a GET; status 0 when nothing was answered."""
    try:
        connection = http.client.HTTPConnection(address, port, timeout=10)
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""


class Load(threading.Thread):
    """Requests one after the other over one connection."""

    def __init__(self, address, host):
        super().__init__(daemon=True)
        self.address, self.host, self.ends, self.good, self.bad = address, host, False, 0, []

    def run(self):
        connection = None
        while not self.ends:
            try:
                connection = connection or http.client.HTTPConnection(self.address, 80, timeout=30)
                connection.request("GET", "/", headers={"Host": self.host})
                answer = connection.getresponse()
                text = answer.read()
                if answer.status == 200:
                    self.good += 1
                else:
                    self.bad.append(f"{answer.status} {text[:100]}")
            except OSError as error:
                self.bad.append(repr(error))
                connection = None


def setup():
    """The CRDs, what is in deploy/kubernetes, and its classes."""
    for crd in sorted(pathlib.Path(os.environ["CRDS"]).glob("gateway*.yaml")):
        kubectl("apply", "--server-side", "-f", str(crd))
    until("the CRDs to be served", lambda: "httproutes" in kubectl("api-resources", "--api-group=gateway.networking.k8s.io"))
    kubectl("apply", "-f", f"{ROOT}/deploy/kubernetes/rbac.yaml")
    kubectl("apply", "--dry-run=server", "-k", f"{ROOT}/deploy/kubernetes")
    kubectl("apply", "-f", f"{ROOT}/deploy/kubernetes/classes.yaml")


def services(endpoints="[{addresses: [10.99.0.1]}]"):
    """The rights for Services of Gateways, and Tidegate's own Service, with these endpoints; what Tidegate is to be told, where it is the process below."""
    kubectl("apply", "-f", f"{ROOT}/deploy/kustomize/overlays/gateway-services/rights.yaml")
    apply(f"""
{{apiVersion: v1, kind: Service, metadata: {{name: tidegate, namespace: tidegate}}, spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: tidegate, namespace: tidegate, labels: {{kubernetes.io/service-name: tidegate}}}}
addressType: IPv4
ports: [{{port: 80}}]
endpoints: {endpoints}
""")
    # This namespace has many addresses, of which an answer to a datagram must have the right one.
    return ["--publish-service", "tidegate/tidegate", "--gateway-services", "load-balancer", "--gateway-address", "10.99.0.1"]


class Tidegate:
    """The process, with the rights of a service account and no others: of deploy/kubernetes/rbac.yaml, if no other is named."""

    def __init__(self, *args, name="tidegate", account="tidegate", namespace="tidegate", admin=ADMIN, ingress=INGRESS):
        token = kubectl("create", "token", account, "-n", namespace, "--duration=24h").strip()
        path = RUN / f"{name}.kubeconfig"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
            "clusters": [{"name": "c", "cluster": {"server": API, "certificate-authority": f"{RUN}/ca.crt"}}],
            "users": [{"name": "u", "user": {"token": token}}]}))
        self.admin_port, self.pid = int(admin.rsplit(":", 1)[1]), RUN / f"{name}.pid"
        log = open(RUN / f"{name}.log", "ab")
        self.process = subprocess.Popen(
            [os.environ["TIDEGATE"], "run", "--kubernetes", "--kubeconfig", str(path), "--admin", admin,
             "--ingress-address", f"{ingress}:80", *args], stdout=log, stderr=log)
        self.pid.write_text(str(self.process.pid))
        self.started = time.monotonic()

    def admin(self, path):
        return get("10.99.0.1", "10.99.0.1", path, self.admin_port)

    def ready(self):
        until("Tidegate to be ready", lambda: self.admin("/readyz")[0] == 200)
        return time.monotonic() - self.started

    def metric(self, name):
        lines = self.admin("/metrics")[1].decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))

    def stop(self):
        self.process.terminate()
        code = self.process.wait(60)
        self.pid.unlink()
        return code


def deployment(name, replicas, namespace="default"):
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: echo
        image: {IMAGE}
        ports: [{{containerPort: 3000}}]
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 3000}}]}}
---"""


def gateway(name, address, namespace="default"):
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  gatewayClassName: tidegate
  addresses: [{{type: IPAddress, value: {address}}}]
  listeners: [{{name: http, port: 80, protocol: HTTP}}]
---"""


def route(name, service, host, parent="edge", namespace="default"):
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{name: {parent}}}]
  hostnames: [{host}]
  rules: [{{backendRefs: [{{name: {service}, port: 80}}]}}]
---"""


def ingress(name, service, host, namespace="default"):
    return f"""
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  ingressClassName: tidegate
  rules:
  - host: {host}
    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}
---"""
