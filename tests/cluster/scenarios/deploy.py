"""The chart and the overlays, rendered and taken by a real API server; the pod is one that a namespace of level `restricted` takes."""
import base64, pathlib, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *

HELM, CHART = os.environ["HELM"], f"{ROOT}/deploy/helm/tidegate"
# Helm keeps nothing outside of the run's folder.
for name in ("CACHE", "CONFIG", "DATA"):
    os.environ[f"HELM_{name}_HOME"] = str(RUN / "helm")


def helm(*args, fails=False):
    done = subprocess.run([HELM, *args], capture_output=True, text=True)
    if (done.returncode != 0) != fails:
        sys.exit(f"helm {' '.join(args)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout if not fails else done.stderr


def documents(text):
    return [one for one in text.split("\n---\n") if "kind:" in one]


def template(*sets, namespace="edge"):
    return helm("template", "edge", CHART, "--namespace", namespace, "--api-versions", "gateway.networking.k8s.io/v1",
                *(word for one in sets for word in ("--set-json", one)))


def is_taken(what, text):
    # Kinds of the Prometheus operator are not in this cluster.
    known = [one for one in documents(text) if "monitoring.coreos.com" not in one]
    kubectl("apply", "--dry-run=server", "-f", "-", text="\n---\n".join(known))
    print(f"{what}: {len(known)} objects would be taken")


setup()
kubectl("create", "namespace", "edge")
kubectl("label", "namespace", "edge", "pod-security.kubernetes.io/enforce=restricted")
helm("lint", "--strict", CHART)
subprocess.run([f"{ROOT}/deploy/render.sh", "--check", HELM], check=True)
VARIANTS = {
    "as it is": [],
    "a DaemonSet on the host's network": ['kind="DaemonSet"', "hostNetwork=true", "service.enabled=false", "ports.http=8080", "ports.https=8443"],
    "everything": [
        "autoscaling.enabled=true", "autoscaling.targetMemoryUtilizationPercentage=80", "networkPolicy.enabled=true",
        'networkPolicy.egress=[{"to":[{"ipBlock":{"cidr":"10.0.0.0/8"}}]}]', "metrics.serviceMonitor.enabled=true",
        "metrics.prometheusRule.enabled=true", "hostPorts=true", 'podAntiAffinity="required"', 'preStop={"sleep":{"seconds":5}}',
        'extraArgs=["--zone=a"]', 'commonLabels={"team":"edge"}', 'commonAnnotations={"a":"b"}', "ingressClass.default=true",
        'ingressClass.aliases=["nginx"]', 'service.extraPorts=[{"name":"alt","port":8080,"targetPort":8080}]', "workers=2",
        'statusAddress="192.0.2.1"', "updateStatus=false", "mesh=true", "snapshot.enabled=true", 'tolerations=[{"operator":"Exists"}]', 'nodeSelector={"kubernetes.io/os":"linux"}',
        'priorityClassName="system-cluster-critical"', 'serviceAccount.annotations={"x":"y"}', 'service.loadBalancerSourceRanges=["10.0.0.0/8"]',
        'extraEnvs=[{"name":"TIDEGATE_ZONE","value":"a"}]', 'extraVolumes=[{"name":"tmp","emptyDir":{}}]',
        'extraVolumeMounts=[{"name":"tmp","mountPath":"/tmp"}]', 'service.trafficDistribution="PreferClose"',
        'extraObjects=[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"more"}}]', "inject.enabled=true", 'inject.failurePolicy="Fail"',
        'inject.defaults={"grace":"10s","access-log":true}', 'inject.namespaceSelector={"matchLabels":{"tidegate.dev/inject":"enabled"}}',
        'inject.sidecarImage="registry.example/tidegate:1"', 'inject.extraArgs=["--names=192.0.2.7"]', 'inject.tolerations=[{"operator":"Exists"}]',
        'inject.nodeSelector={"kubernetes.io/os":"linux"}'],
    "little": ["podDisruptionBudget.enabled=false", "metrics.service.enabled=false", "rbac.create=false", "serviceAccount.create=false",
               "ingressClass.enabled=false", "gatewayClass.enabled=false", "replicas=1", 'service.type="ClusterIP"'],
    "with sidecars": ["inject.enabled=true"],
    "with certificates by ACME": ["acme.enabled=true", "acme.termsAgreed=true", 'acme.email="ops@example.com"', 'acme.challenge="tls-alpn-01"',
                                  'acme.directory="https://ca.example/dir"', 'config.acme={"ca":["/etc/ca/ca.crt"]}'],
    "with certificates by ACME on a volume": ["acme.enabled=true", "acme.termsAgreed=true", 'acme.store="/srv/acme"', "inject.enabled=true"],
    "with a Service for every Gateway": ["gatewayServices.enabled=true", 'gatewayServices.type="NodePort"', 'gatewayServices.ports={"first":30000,"last":30099}',
                                         "networkPolicy.enabled=true"],
}
for what, sets in VARIANTS.items():
    is_taken(what, template(*sets))
everything = template(*VARIANTS["everything"])
for kind in ("ServiceMonitor", "PrometheusRule", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "MutatingWebhookConfiguration"):
    if f"kind: {kind}\n" not in everything:
        sys.exit(f"no {kind} was rendered")
if "GatewayClass" in helm("template", "edge", CHART):
    sys.exit("a GatewayClass for a cluster without the Gateway API")
served = template(*VARIANTS["with a Service for every Gateway"])
for part in ("--gateway-services=node-port", "--gateway-ports=30000-30099", "endPort: 30099", "edge-tidegate-gateway-services"):
    if part not in served:
        sys.exit(f"no {part} with gatewayServices")
if "gateway-services" in template():
    sys.exit("rights that nobody asked for")
if "publishService" not in helm("template", "edge", CHART, "--set-json", "gatewayServices.enabled=true", "--set-json", 'statusAddress="192.0.2.1"', fails=True):
    sys.exit("gatewayServices with an address that is not its Services'")
for bad in ("replica=3", 'kind="StatefulSet"', "ports.http=70000", 'extraArgs=["zone"]', 'gatewayServices.type="loadbalancer"'):
    said = helm("template", "edge", CHART, "--set-json", bad, fails=True)
    if "schema" not in said and "additional" not in said.lower():
        sys.exit(f"{bad} was refused for something else: {said}")

for refused, words in ((("acme.enabled=true",), "acme.termsAgreed"),
                       (("acme.enabled=true", "acme.termsAgreed=true", "inject.enabled=true"), "release of its own")):
    said = helm("template", "edge", CHART, *(word for one in refused for word in ("--set-json", one)), fails=True)
    if words not in said:
        sys.exit(f"{refused} was refused for something else: {said}")
if "-acme" in template() or "-acme" in template(*VARIANTS["with certificates by ACME on a volume"]):
    sys.exit("rights for ACME that nobody asked for")

for overlay in sorted((ROOT / "deploy/kustomize/overlays").iterdir()):
    is_taken(f"overlay {overlay.name}", kubectl("kustomize", str(overlay)))

# The pods themselves, where only what is `restricted` is taken. A Deployment is only warned of it.
workloads = [one for one in documents(template("inject.enabled=true")) if "kind: Deployment\n" in one]
for workload in workloads:
    workload = json.loads(kubectl("create", "--dry-run=client", "-o", "json", "-f", "-", text=workload))
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "edge"}, "spec": workload["spec"]["template"]["spec"]}
    pod["spec"].pop("serviceAccountName")
    kubectl("apply", "--dry-run=server", "-f", "-", text=json.dumps(pod))
if len(workloads) != 2:
    sys.exit("proxy and injector were to be rendered")
print("a namespace of level restricted takes the pods")
kubectl("create", "serviceaccount", "app")  # a rehearsal makes none for the Pod that follows
for file in ("kubernetes/sidecar.yaml", "cluster-examples"):
    kubectl("apply", "--dry-run=server", "-f", f"{ROOT}/deploy/{file}")

helm("install", "edge", CHART, "--namespace", "edge", "--set", "ingressClass.name=edge,gatewayClass.name=edge,inject.enabled=true")
# What the injector writes, an upgrade leaves alone.
KEPT = "/api/v1/namespaces/edge/secrets/edge-tidegate-inject"
ASKED = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/edge-tidegate-inject"
api("PATCH", KEPT, {"data": {"since": "MQ=="}})
webhooks = api("GET", ASKED)["webhooks"]
webhooks[0]["clientConfig"]["caBundle"] = base64.b64encode((RUN / "ca.crt").read_bytes()).decode()
api("PATCH", ASKED, {"webhooks": webhooks})
helm("upgrade", "edge", CHART, "--namespace", "edge", "--reuse-values", "--set", "replicas=3")
if api("GET", "/apis/apps/v1/namespaces/edge/deployments/edge-tidegate")["spec"]["replicas"] != 3:
    sys.exit("an upgrade did not take")
if api("GET", KEPT)["data"] != {"since": "MQ=="} or "caBundle" not in api("GET", ASKED)["webhooks"][0]["clientConfig"]:
    sys.exit("an upgrade has taken what the injector wrote")


def may(*what, who="edge-tidegate"):
    done = subprocess.run([f"{BIN}/kubectl", "auth", "can-i", *what, f"--as=system:serviceaccount:edge:{who}",
                           "--as-group=system:serviceaccounts"], capture_output=True, text=True)
    return done.stdout.strip() == "yes"


for what, expected in ((("list", "secrets", "-A"), True), (("watch", "httproutes.gateway.networking.k8s.io", "-A"), True),
                       (("patch", "ingresses.networking.k8s.io", "--subresource=status", "-A"), True), (("get", "secrets", "-A"), False),
                       (("update", "leases.coordination.k8s.io/tidegate", "-n", "edge"), True),
                       (("update", "leases.coordination.k8s.io/other", "-n", "edge"), False), (("delete", "services", "-A"), False),
                       (("patch", "ingresses.networking.k8s.io", "-A"), False), (("create", "pods", "-A"), False)):
    if may(*what) != expected:
        sys.exit(f"the installed role: {what} is {not expected}")
for what, expected in ((("update", "secrets/edge-tidegate-inject", "-n", "edge"), True), (("get", "secrets/other", "-n", "edge"), False),
                       (("create", "secrets", "-n", "edge"), False), (("get", "namespaces"), True), (("list", "namespaces"), False),
                       (("patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io/edge-tidegate-inject"), True),
                       (("patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io/other"), False), (("get", "pods", "-A"), False),
                       (("update", "leases.coordination.k8s.io/edge-tidegate-inject", "-n", "edge"), True), (("list", "services", "-A"), True)):
    if may(*what, who="edge-tidegate-inject") != expected:
        sys.exit(f"the injector's role: {what} is {not expected}")
helm("uninstall", "edge", "--namespace", "edge")
for kind in ("deployment", "service", "role", "secret", "mutatingwebhookconfiguration"):
    if kubectl("get", kind, "-n", "edge", "-o", "name").strip():
        sys.exit(f"a {kind} was left behind")
print("installed, upgraded and taken away")
