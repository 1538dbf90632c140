"""Sidecars, put into Pods by a real API server's admission: registered, reached, taken by Pod Security, rotated, and away."""
import base64, pathlib, re, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *
from injector import *

SECRET = f"/api/v1/namespaces/tidegate/secrets/{NAME}"
PODS = "/api/v1/namespaces/{}/pods"
rendered = install()


def start():
    return Injector("tidegate", "tidegate-init", "--default", "proxy-cpu-request=20m")


def trusted():
    bundle = api("GET", WEBHOOK)["webhooks"][0]["clientConfig"].get("caBundle", "")
    return base64.b64decode(bundle).decode().count("BEGIN CERTIFICATE")


def pod(name, annotations={}, **spec):
    container = {"name": "app", "image": IMAGE, "securityContext": {
        "runAsNonRoot": True, "runAsUser": 1000, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": {f"tidegate.dev/{k}": v for k, v in annotations.items()}},
            "spec": {"containers": [container]} | spec}


def made(namespace, body):
    """What a Pod is after admission, as a rehearsal, and the warnings about it."""
    request = urllib.request.Request(API + PODS.format(namespace) + "?dryRun=All", method="POST", headers={"Content-Type": "application/json"},
                                     data=json.dumps(body).encode())
    with urllib.request.urlopen(request, context=tls, timeout=30) as answer:
        return json.load(answer), answer.headers.get_all("Warning") or []


def init(of):
    return [one["name"] for one in of["spec"].get("initContainers", [])]


def injected(namespace="shop", name="probe"):
    return init(made(namespace, pod(name))[0]) == ["tidegate-init", "tidegate"]


injector = start()
injector.ready()
for name, labels in (("shop", "tidegate.dev/inject=enabled"), ("strict", "pod-security.kubernetes.io/enforce=restricted"), ("quiet", "a=b")):
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, labels)
for name in ("shop", "strict", "quiet"):
    until("service accounts", lambda: subprocess.run([f"{BIN}/kubectl", "get", "sa", "default", "-n", name], capture_output=True).returncode == 0)
until("the API server to trust and ask", injected, 30)
assert trusted() == 1

# A Deployment's Pods come out with a sidecar, once, and with a token for it.
apply(deployment("web", 2, "shop"))
pods = until("the Pods", lambda: [one for one in api("GET", PODS.format("shop"))["items"] if one["metadata"]["labels"].get("app") == "web"][1:2] and
             api("GET", PODS.format("shop"))["items"])
for one in pods:
    sidecar = one["spec"]["initContainers"][1]
    mounts = [mount["name"] for mount in sidecar["volumeMounts"] if mount["mountPath"].endswith("serviceaccount")]
    assert init(one) == ["tidegate-init", "tidegate"] and sidecar["restartPolicy"] == "Always", init(one)
    assert mounts == ["tidegate-token"], mounts
    assert one["metadata"]["annotations"]["tidegate.dev/injected"], one["metadata"]
    assert sidecar["resources"]["requests"] == {"cpu": "20m", "memory": "16Mi"}, sidecar["resources"]
print(f"{len(pods)} Pods of a Deployment have a sidecar")
again, _ = made("shop", {"apiVersion": "v1", "kind": "Pod", "spec": pods[0]["spec"],
                         "metadata": {"name": "copy", "annotations": pods[0]["metadata"]["annotations"]}})
assert init(again) == ["tidegate-init", "tidegate"], init(again)

# A namespace of level `restricted` takes what has no privilege; where that is asked which it forbids, the Pod stays as it is.
local = {"inject": "localhost", "outbound": "3001=shop/web:80,3002=web:80", "inbound": "8080=3000"}
taken, warnings = made("strict", pod("local", local))
assert init(taken) == ["tidegate"] and not warnings, (init(taken), warnings)
# Nor is an identity anything that it forbids.
taken, warnings = made("strict", pod("known", local | {"identity": "workload-api", "mtls": "strict"}))
volumes = [volume["csi"] for volume in taken["spec"]["volumes"] if volume["name"] == "tidegate-identity"]
assert init(taken) == ["tidegate"] and not warnings, (init(taken), warnings)
assert volumes == [{"driver": "csi.spiffe.io", "readOnly": True}], volumes
taken, warnings = made("strict", pod("secret", local | {"identity": "secret:web"}))
assert init(taken) == ["tidegate"] and not warnings, (init(taken), warnings)
# Under strict mTLS probes are let be where that is asked for, and are told about where it is not.
for plain, sidecars in (({}, []), ({"plain-ports": "probes"}, ["tidegate-init", "tidegate"])):
    body = pod("probed", {"identity": "workload-api", "mtls": "strict"} | plain)
    body["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"port": 3000}}
    taken, warnings = made("shop", body)
    assert init(taken) == sidecars, (init(taken), warnings)
    assert ("--plain-ports=3000" in taken["spec"]["initContainers"][1]["args"]) if sidecars else ("ask port 3000" in warnings[0]), (taken, warnings)
forbidden, warnings = made("strict", pod("redirected", {"inject": "enabled"}))
assert not init(forbidden) and "NET_ADMIN" in warnings[0], warnings
# What cannot be understood, or has no network of its own, stays as it is.
for annotations, spec, said in (({"grace": "soon"}, {}, "grace"), ({"skip-outbound-port": "25"}, {}, "did you mean"), ({"inject": "disabled"}, {}, None),
                                ({}, {"hostNetwork": True}, None), ({"inject": "enabled"}, {"hostNetwork": True}, "node's network")):
    left, warnings = made("shop", pod("left", annotations, **spec))
    assert not init(left), (annotations, init(left))
    assert (said in warnings[0]) if said else not warnings, (annotations, warnings)
assert not init(made("quiet", pod("q"))[0]) and not init(made("kube-system", pod("q", {"inject": "enabled"}))[0])
print("Pod Security takes what is injected; what cannot be injected is told")

# What is overwritten is put right.
webhooks = api("GET", WEBHOOK)["webhooks"]
bundle = webhooks[0]["clientConfig"].pop("caBundle")
api("PATCH", WEBHOOK, {"webhooks": webhooks})
until("the bundle to be put right", lambda: api("GET", WEBHOOK)["webhooks"][0]["clientConfig"].get("caBundle") == bundle, 20)
until("the API server to ask again", injected, 20)

# A rotation, from a certificate that has ten days left; what nobody waits for here is the settling of each step.
sh = lambda line: subprocess.run(["bash", "-ceu", line], cwd=RUN, check=True, capture_output=True)
sh("""openssl ecparam -name prime256v1 -genkey -noout -out old-ca.key
openssl req -x509 -new -key old-ca.key -subj /CN=old -days 10 -out old-ca.crt
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out old.key
openssl req -new -key old.key -subj /CN=old | openssl x509 -req -CA old-ca.crt -CAkey old-ca.key -CAcreateserial -days 10 -out old.crt -extfile \
  <(printf 'subjectAltName=DNS:tidegate-inject.tidegate.svc,DNS:tidegate-inject.tidegate,DNS:tidegate-inject.tidegate.svc.cluster.local,IP:10.99.0.1\\nbasicConstraints=critical,CA:FALSE')""")
encoded = lambda text: base64.b64encode(text).decode()
secret = api("GET", SECRET)
secret["data"] = {key: encoded((RUN / file).read_bytes()) for key, file in (("tls.crt", "old.crt"), ("tls.key", "old.key"), ("ca.crt", "old-ca.crt"))}
old = api("PUT", SECRET, secret, "application/json")["data"]["tls.crt"]


def shown():
    """The certificate that the injector shows."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("10.99.0.1", 9443)))


old_der = ssl.PEM_cert_to_DER_cert((RUN / "old.crt").read_text())
until("the next one to be trusted beside the old", lambda: trusted() == 2, 20)
until("the old one to be shown", lambda: shown() == old_der, 20)
until("the API server to ask with the old one", injected, 20)
api("PATCH", SECRET, {"data": {"since": encoded(b"1")}})
until("the new one to be shown", lambda: shown() != old_der, 20)
assert trusted() == 2 and injected(), "both are trusted"
api("PATCH", SECRET, {"data": {"since": encoded(b"1")}})
until("the old one to be forgotten", lambda: trusted() == 1, 20)
assert injected(), "after the rotation"
print("rotated: staged, promoted, forgotten, and asked in each step")

# Another replica goes on; and without any the API server makes Pods all the same.
if (code := injector.stop()) != 0:
    sys.exit(f"it ended with {code}")
assert not injected(), "nobody is there"
injector = start()
injector.ready()
until("the API server to ask the next one", injected, 20)
counts = dict(re.findall(r'tidegate_inject_reviews_total\{result="(\w+)"\} (\d+)', injector.admin("/metrics")[1].decode()))
print("without an injector Pods are made without; the next one goes on:", counts)
if (code := injector.stop()) != 0:
    sys.exit(f"it ended with {code}")
kubectl("delete", "-f", "-", "--wait=false", text=rendered)
kubectl("delete", "namespace", "shop", "strict", "quiet", "--wait=false")
