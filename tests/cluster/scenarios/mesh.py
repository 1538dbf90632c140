"""The Gateway API's own conformance tests for meshes: routes of Services, served by Tidegate beside each pod, for the profiles
MESH-HTTP and MESH-GRPC. The suite's clients ask from within pods (`exec`), through the sidecar.

The sidecars come as in deploy/kubernetes/sidecar.yaml, put into the pods by a MutatingAdmissionPolicy. The ingress controller writes
the routes' status. CONFORMANCE=TestName runs one test. KEEP=FILE keeps what the tests print, MESH_REPORT=FILE their report."""
import pathlib, re, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *

POLICY = """
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: tidegate-sidecar}
spec:
  matchConstraints:
    namespaceSelector: {matchExpressions: [{key: gateway-conformance, operator: In, values: [mesh, mesh-consumer]}]}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  reinvocationPolicy: Never
  failurePolicy: Fail
  mutations:
  - patchType: JSONPatch # one by one: API server 1.36 panics over a list of objects
    jsonPatch:
      expression: |
        [JSONPatch{op: "add", path: "/spec/initContainers", value: []},
         JSONPatch{op: "add", path: "/spec/initContainers/-", value:
          Object.spec.initContainers{name: "rules", image: "tidegate-init", args: ["--proxy-uid", "2102"],
            securityContext: Object.spec.initContainers.securityContext{runAsUser: 0}}},
         JSONPatch{op: "add", path: "/spec/initContainers/-", value:
          Object.spec.initContainers{name: "tidegate", image: "tidegate", restartPolicy: "Always",
            args: ["sidecar", "--transparent", "--kubernetes", "--access-log"],
            startupProbe: Object.spec.initContainers.startupProbe{
              httpGet: Object.spec.initContainers.startupProbe.httpGet{path: "/readyz", port: 4191}},
            securityContext: Object.spec.initContainers.securityContext{runAsUser: 2102}}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: tidegate-sidecar}
spec: {policyName: tidegate-sidecar}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: tidegate-sidecars}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: tidegate-sidecar}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: system:serviceaccounts}]
"""


def said(result):
    return re.findall(rf"^    --- {result}: TestConformance/(\w+) ", text, re.M)


setup()
role = next(one for one in pathlib.Path(f"{ROOT}/deploy/kubernetes/sidecar.yaml").read_text().split("\n---\n") if "kind: ClusterRole\n" in one)
apply(role + "\n---\n" + POLICY)
tidegate = Tidegate("--mesh")
tidegate.ready()

page = pathlib.Path(f"{ROOT}/docs/gateway-api.md").read_text()
features = re.findall(r"^\| `((?:Mesh|HTTPRoute|GRPCRoute)\w*)` \| yes \|", page, re.M)
version = subprocess.run([os.environ["TIDEGATE"], "--version"], capture_output=True, text=True).stdout.split()[-1]
one = ["-run-test", os.environ["CONFORMANCE"]] if os.environ.get("CONFORMANCE") else []
log, report = RUN / "mesh.log", RUN / "mesh-report.yaml"
with open(log, "w") as out:
    subprocess.run([f"{BIN}/conformance.test", "-test.run", "TestConformance", "-test.v", "-gateway-class", "",
                    "-supported-features", ",".join(features), "-cleanup-base-resources=false",
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
if (code := tidegate.stop()) != 0:
    sys.exit(f"it ended with {code}")
