"""What Gateways, routes and Ingresses are told, with the rights of deploy/kubernetes/rbac.yaml and no others."""
import pathlib, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *

setup()
apply(deployment("app", 1) + gateway("front", "10.99.250.3") + route("app", "app", "app.example", parent="front")
      + route("lost", "nowhere", "lost.example", parent="front") + ingress("app", "app", "app.ingress.example")
      + gateway("theirs", "10.99.250.4").replace("gatewayClassName: tidegate", "gatewayClassName: other"))
apply("""{apiVersion: v1, kind: Service, metadata: {name: lb, namespace: default}, spec: {type: LoadBalancer, ports: [{port: 80}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: anywhere, namespace: default},
 spec: {gatewayClassName: tidegate, listeners: [{name: http, port: 8081, protocol: HTTP}]}}""")
tidegate = Tidegate("--publish-service", "default/lb")
tidegate.ready()
G = "/apis/gateway.networking.k8s.io/v1"


def conditions(of):
    return {one["type"]: (one["status"], one["reason"]) for one in of.get("conditions", [])}


def status(path):
    return api("GET", path).get("status", {})


def wait(what, path, read, expected):
    try:
        until(what, lambda: read(status(path)) == expected, 30)
    except SystemExit:
        sys.exit(f"{what}: {json.dumps(status(path), indent=1)}")


def of_route(status):
    return [conditions(parent) for parent in status.get("parents", [])]


wait("the class to be accepted", f"{G}/gatewayclasses/tidegate", lambda s: conditions(s).get("Accepted"), ("True", "Accepted"))
front = f"{G}/namespaces/default/gateways/front"
wait("the Gateway to be programmed", front, lambda s: conditions(s).get("Programmed"), ("True", "Programmed"))
wait("its address", front, lambda s: s["addresses"], [{"type": "IPAddress", "value": "10.99.250.3"}])
wait("its listener", front, lambda s: s["listeners"][0]["attachedRoutes"], 2)
routes = f"{G}/namespaces/default/httproutes"
good = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}
wait("the route", f"{routes}/app", of_route, [good])
wait("the route without backend", f"{routes}/lost", of_route, [good | {"ResolvedRefs": ("False", "BackendNotFound")}])
wait("the Ingress", "/apis/networking.k8s.io/v1/namespaces/default/ingresses/app",
     lambda s: s.get("loadBalancer", {}).get("ingress"), [{"ip": INGRESS}])
# A Gateway on every address is told where the Service in front is, as soon as that is known.
anywhere = f"{G}/namespaces/default/gateways/anywhere"
wait("the Gateway on every address", anywhere, lambda s: conditions(s).get("Programmed"), ("True", "Programmed"))
if status(anywhere).get("addresses"):
    sys.exit(f"an address that nobody knows: {status(anywhere)}")
api("PATCH", "/api/v1/namespaces/default/services/lb/status", {"status": {"loadBalancer": {"ingress": [{"hostname": "lb.example"}, {"ip": "192.0.2.1"}]}}})
wait("where clients come to", anywhere, lambda s: s.get("addresses"),
     [{"type": "Hostname", "value": "lb.example"}, {"type": "IPAddress", "value": "192.0.2.1"}])
kubectl("delete", "httproute", "lost")
wait("one route less", front, lambda s: s["listeners"][0]["attachedRoutes"], 1)

# What is said once is not said again, and others' Gateways are left alone.
version = api("GET", front)["metadata"]["resourceVersion"]
kubectl("scale", "deployment", "app", "--replicas=2")
kubectl("rollout", "status", "deployment", "app", "--timeout=60s")
time.sleep(2)
if api("GET", front)["metadata"]["resourceVersion"] != version:
    sys.exit("a status was written that did not differ")
theirs = conditions(status(f"{G}/namespaces/default/gateways/theirs"))
if theirs.get("Accepted", ("Unknown",))[0] != "Unknown":
    sys.exit(f"another's Gateway was told {theirs}")
lease = api("GET", "/apis/coordination.k8s.io/v1/namespaces/tidegate/leases/tidegate")
print("written by", lease["spec"]["holderIdentity"])
if (code := tidegate.stop()) != 0:
    sys.exit(f"it ended with {code}")
