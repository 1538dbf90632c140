"""What puts sidecars into Pods, for scenarios: what the chart installs, but for the Deployment, which is a process here. There is nobody who
leads Services' addresses anywhere, so the API server is given an address of the process."""
import signal, urllib.error

from cluster import *

HELM, CHART = os.environ["HELM"], f"{ROOT}/deploy/helm/tidegate"
for name in ("CACHE", "CONFIG", "DATA"):
    os.environ[f"HELM_{name}_HOME"] = str(RUN / "helm")
NAME, ADDRESS, ASKED = "tidegate-inject", "10.99.0.1:9443", "10.99.0.1:9901"
WEBHOOK = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{NAME}"


def install():
    """Gives what was installed, to take it away."""
    apply("{apiVersion: v1, kind: Namespace, metadata: {name: tidegate}}")
    rendered = subprocess.run([HELM, "template", "tidegate", CHART, "--namespace", "tidegate", "--set", "inject.enabled=true",
                               "--show-only", "templates/inject.yaml"], capture_output=True, text=True, check=True).stdout
    kubectl("apply", "-f", "-", text=rendered)
    kubectl("scale", "deployment", NAME, "-n", "tidegate", "--replicas=0")
    webhooks = api("GET", WEBHOOK)["webhooks"]
    webhooks[0]["clientConfig"] = {"url": f"https://{ADDRESS}/inject"}
    api("PATCH", WEBHOOK, {"webhooks": webhooks})
    return rendered


def is_asked():
    """Whether the API server asks by now: by the rehearsal of a Pod in a namespace of this."""
    apply("{apiVersion: v1, kind: Namespace, metadata: {name: rehearsal, labels: {tidegate.dev/inject: enabled}}}")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": IMAGE}]}}
    try:
        made = api("POST", "/api/v1/namespaces/rehearsal/pods?dryRun=All", pod, "application/json")
    except urllib.error.HTTPError:  # its service account is not there yet
        return False
    return "initContainers" in made["spec"]


class Injector:
    """The process, with the rights of its role and no others."""

    def __init__(self, image, init_image, *args, address=ADDRESS, asked=ASKED):
        token = kubectl("create", "token", NAME, "-n", "tidegate", "--duration=24h").strip()
        path = RUN / "inject.kubeconfig"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "tidegate"}}],
            "clusters": [{"name": "c", "cluster": {"server": API, "certificate-authority": f"{RUN}/ca.crt"}}],
            "users": [{"name": "u", "user": {"token": token}}]}))
        log = open(RUN / "inject.log", "ab")
        self.asked = asked
        self.process = subprocess.Popen(
            [os.environ["TIDEGATE"], "inject", "--kubeconfig", str(path), "--address", address, "--admin", asked, "--names", "10.99.0.1",
             "--image", image, "--init-image", init_image, *args], stdout=log, stderr=log)
        (RUN / "inject.pid").write_text(str(self.process.pid))

    def admin(self, path):
        host, port = self.asked.split(":")
        return get(host, host, path, int(port))

    def ready(self):
        until("the injector to be ready", lambda: self.admin("/readyz")[0] == 200)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        (RUN / "inject.pid").unlink()
        return code
