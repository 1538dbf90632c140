"""The Gateway API's own conformance tests of the profile GATEWAY-HTTP, its core features. CONFORMANCE=TestName runs one."""
import pathlib, re, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *

FEATURES = "Gateway,HTTPRoute,ReferenceGrant"

setup()
tidegate = Tidegate("--gateway-pool", "10.99.250.64/26", "--ingress-tls-address", f"{INGRESS}:443")
tidegate.ready()
until("the class to be accepted", lambda: api("GET", "/apis/gateway.networking.k8s.io/v1/gatewayclasses/tidegate").get("status", {}).get("supportedFeatures"))
one = ["-run-test", os.environ["CONFORMANCE"]] if os.environ.get("CONFORMANCE") else []
log = RUN / "conformance.log"
with open(log, "w") as out:
    subprocess.run([f"{BIN}/conformance.test", "-test.run", "TestConformance", "-test.v", "-gateway-class", "tidegate",
                    "-supported-features", FEATURES, "-cleanup-base-resources=false", *one], stdout=out, stderr=out, cwd=RUN)
text = log.read_text()
results = {"PASS": [], "FAIL": [], "SKIP": []}
for kind, name in re.findall(r"^    --- (PASS|FAIL|SKIP): TestConformance/(\w+) ", text, re.M):
    results[kind].append(name)
for kind, names in results.items():
    print(kind, len(names), "" if kind == "SKIP" else " ".join(names))
if keep := os.environ.get("KEEP"):
    pathlib.Path(keep).write_text(text)
if not results["PASS"] or results["FAIL"]:
    sys.exit(f"conformance: {len(results['FAIL'])} fail\n{text[-3000:] if not results['PASS'] else ''}")
if (code := tidegate.stop()) != 0:
    sys.exit(f"it ended with {code}")
