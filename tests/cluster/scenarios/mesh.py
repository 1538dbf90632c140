"""The Gateway API's own conformance tests for meshes: routes of Services, served by Tidegate beside each pod, for the profiles
MESH-HTTP and MESH-GRPC. The suite's clients ask from within pods (`exec`), through the sidecar.

The sidecars come with `tidegate inject`, and the pod runner runs what the Pods say. The ingress controller writes the routes' status. CONFORMANCE=TestName runs one test. KEEP=FILE keeps what the tests print, MESH_REPORT=FILE their report."""
import pathlib, re, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *
from injector import *

def said(result):
    return re.findall(rf"^    --- {result}: TestConformance/(\w+) ", text, re.M)


setup()
rendered = install()
injector = Injector("tidegate", "tidegate-init", "--default", "access-log=true")
injector.ready()
until("the API server to ask the injector", is_asked)
tidegate = Tidegate("--mesh")
tidegate.ready()

page = pathlib.Path(f"{ROOT}/docs/gateway-api.md").read_text()
features = re.findall(r"^\| `((?:Mesh|HTTPRoute|GRPCRoute)\w*)` \| yes \|", page, re.M)
version = subprocess.run([os.environ["TIDEGATE"], "--version"], capture_output=True, text=True).stdout.split()[-1]
one = ["-run-test", os.environ["CONFORMANCE"]] if os.environ.get("CONFORMANCE") else []
log, report = RUN / "mesh.log", RUN / "mesh-report.yaml"
with open(log, "w") as out:
    subprocess.run([f"{BIN}/conformance.test", "-test.run", "TestConformance", "-test.v", "-gateway-class", "",
                    "-supported-features", ",".join(features), "-namespace-labels", "tidegate.dev/inject=enabled", "-cleanup-base-resources=false",
                    "-conformance-profiles", "MESH-HTTP,MESH-GRPC", "-report-output", str(report),
                    "-organization", "tidegate", "-project", "tidegate", "-url", "https://tidegate.dev",
                    "-contact", "https://tidegate.dev", "-version", f"v{version}", *one], stdout=out, stderr=out, cwd=RUN)
text = log.read_text()
for result in "PASS", "FAIL", "SKIP":
    print(result, len(said(result)), " ".join(said(result)) if result == "FAIL" else "")
if keep := os.environ.get("KEEP"):
    pathlib.Path(keep).write_text(text)
if (to := os.environ.get("MESH_REPORT")) and report.exists():
    pathlib.Path(to).write_text(report.read_text())
if not said("PASS") or said("FAIL"):
    sys.exit(f"mesh: {len(said('FAIL'))} fail\n{text[-3000:] if not said('PASS') else ''}")
# A route is told how it fares: what its Service is, and what it is not.
apply("""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: told, namespace: gateway-conformance-mesh}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}, {group: "", kind: Service, name: nobody}]
  rules: [{backendRefs: [{name: echo-v1, port: 80}]}]
""")
TOLD = "/apis/gateway.networking.k8s.io/v1/namespaces/gateway-conformance-mesh/httproutes/told"
parents = until("the route to be told", lambda: api("GET", TOLD).get("status", {}).get("parents"))
told = {one["parentRef"]["name"]: (one["controllerName"], [(c["type"], c["status"], c["reason"]) for c in one["conditions"]][0]) for one in parents}
if told != {"echo": ("tidegate.dev/mesh-controller", ("Accepted", "True", "Accepted")),
            "nobody": ("tidegate.dev/mesh-controller", ("Accepted", "False", "NoMatchingParent"))}:
    sys.exit(f"the route was told: {told}")
if (codes := (tidegate.stop(), injector.stop())) != (0, 0):
    sys.exit(f"they ended with {codes}")
kubectl("delete", "namespace", "gateway-conformance-mesh", "gateway-conformance-mesh-consumer", "rehearsal", "--wait=false")
kubectl("delete", "-f", "-", "--wait=false", text=rendered)
