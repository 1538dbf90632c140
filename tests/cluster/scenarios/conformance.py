"""The Gateway API's own conformance tests, with the features that the GatewayClass says are supported, for the profiles
of Gateways. With CHANNEL=experimental those of the experimental channel too.

Each Gateway has a Service (`--gateway-services`), whose load balancer the scenario plays; with GIVEN=pool addresses of `--gateway-pool`
instead. CONFORMANCE=TestName runs one test. KEEP=FILE keeps what the tests print, REPORT=FILE their report."""
import pathlib, re, shutil, subprocess, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from balancer import Balancer
from cluster import *

setup()
if os.environ.get("GIVEN") == "pool":
    given = ["--gateway-pool", "10.99.250.64/26"]
else:
    given = services()
    Balancer().start()
tidegate = Tidegate(*given, "--ingress-tls-address", f"{INGRESS}:443")
tidegate.ready()
PROFILES = "GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS,GATEWAY-TCP,GATEWAY-UDP"
CLASS = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/tidegate"
until("the class to be accepted", lambda: api("GET", CLASS).get("status", {}).get("supportedFeatures"))
features = {feature["name"] for feature in api("GET", CLASS)["status"]["supportedFeatures"]}
version = subprocess.run([os.environ["TIDEGATE"], "--version"], capture_output=True, text=True).stdout.split()[-1]
one = ["-run-test", os.environ["CONFORMANCE"]] if os.environ.get("CONFORMANCE") else []
log, report = RUN / "conformance.log", RUN / "report.yaml"
with open(log, "w") as out:
    subprocess.run([f"{BIN}/conformance.test", "-test.run", "TestConformance", "-test.v", "-gateway-class", "tidegate",
                    "-supported-features", ",".join(sorted(features)), "-cleanup-base-resources=false",
                    "-conformance-profiles", PROFILES,
                    "-usable-address", "10.99.250.10", "-unusable-address", "192.0.2.1", "-report-output", str(report),
                    "-organization", "tidegate", "-project", "tidegate", "-url", "https://tidegate.dev",
                    "-contact", "https://tidegate.dev", "-version", f"v{version}", *one], stdout=out, stderr=out, cwd=RUN)
text = log.read_text()
results = {"PASS": [], "FAIL": [], "SKIP": []}
for kind, name in re.findall(r"^    --- (PASS|FAIL|SKIP): TestConformance/(\w+) ", text, re.M):
    results[kind].append(name)
for kind, names in results.items():
    print(kind, len(names), " ".join(names) if kind == "FAIL" else "")
if keep := os.environ.get("KEEP"):
    pathlib.Path(keep).write_text(text)
if (to := os.environ.get("REPORT")) and report.exists():
    shutil.copy(report, to)
if not results["PASS"] or results["FAIL"]:
    sys.exit(f"conformance: {len(results['FAIL'])} fail\n{text[-3000:] if not results['PASS'] else ''}")
if (code := tidegate.stop()) != 0:
    sys.exit(f"it ended with {code}")
