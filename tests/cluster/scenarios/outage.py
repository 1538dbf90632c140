"""The API server is killed for a minute, under load and with changes before and after; and a process is started without it."""
import pathlib, subprocess, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *

SECONDS = int(os.environ.get("OUTAGE", "60"))

setup()
apply(deployment("web", 3) + gateway("edge", GATEWAY) + route("web", "web", "web.example") + ingress("web", "web", "ingress.example"))
kept = RUN / "kept"
tidegate = Tidegate("--snapshot", str(kept))
tidegate.ready()
for address, host in ((GATEWAY, "web.example"), (INGRESS, "ingress.example")):
    until(f"{host} to be served", lambda: get(address, host)[0] == 200)


def churn(seconds):
    """Pods come and go."""
    end, replicas = time.monotonic() + seconds, 3
    while time.monotonic() < end:
        replicas = 5 if replicas == 3 else 3
        kubectl("scale", "deployment", "web", f"--replicas={replicas}")
        time.sleep(2)


loads = [Load(GATEWAY, "web.example"), Load(INGRESS, "ingress.example"), Load(GATEWAY, "web.example")]
for load in loads:
    load.start()
churn(8)
kubectl("scale", "deployment", "web", "--replicas=4")
kubectl("rollout", "status", "deployment", "web", "--timeout=60s")
time.sleep(3)

pid = int((RUN / "kube-apiserver.pid").read_text())
command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
os.kill(pid, 9)
since = time.monotonic()
until("the outage to be noticed", lambda: b"cannot follow" in tidegate.admin("/readyz?verbose")[1])
if tidegate.admin("/readyz")[0] != 200:
    sys.exit("it is not ready without the API server")
served = {load.host: load.good for load in loads}

# A second process that has never seen it, with what the first one kept, on other addresses.
copy = RUN / "copy"
copy.mkdir()
(copy / "objects").write_bytes((kept / "objects").read_bytes())
second = subprocess.Popen([os.environ["TIDEGATE"], "run", "--kubernetes", "--kubeconfig", str(RUN / "tidegate.kubeconfig"), "--admin",
                           "10.99.0.1:9910", "--ingress-address", "10.99.250.9:80", "--ingress-tls-address", "10.99.250.9:443",
                           "--gateway-address", "10.99.250.9", "--snapshot", str(copy)],
                          stdout=open(RUN / "second.log", "ab"), stderr=subprocess.STDOUT)
try:
    until("a process without API server to serve what was kept", lambda: get("10.99.250.9", "ingress.example")[0] == 200, 30)
except SystemExit:
    print("\n".join(line for line in (RUN / "second.log").read_text().splitlines() if "client error" not in line)[:4000])
    raise
print(f"a process that starts without the API server serves: {get('10.99.0.1', '10.99.0.1', '/readyz', 9910)[1].decode().splitlines()[0]}")
second.terminate()
second.wait(60)

time.sleep(max(0, since + SECONDS - time.monotonic()))
print(f"away for {time.monotonic() - since:.0f} s, {sum(load.good for load in loads)} requests so far")
for load in loads:
    if load.good <= served[load.host]:
        sys.exit(f"{load.host} was not served meanwhile")
log = open(RUN / "kube-apiserver.log", "ab")
server = subprocess.Popen(command, cwd=RUN, stdout=log, stderr=log)
(RUN / "kube-apiserver.pid").write_text(str(server.pid))


def answers():
    try:
        return api("GET", "/api/v1/namespaces/default/services/web")
    except OSError:
        return None


until("the API server to be back", answers, 120)
until("everything to be followed again", lambda: b"cannot follow" not in tidegate.admin("/readyz?verbose")[1], 120)
churn(8)
kubectl("scale", "deployment", "web", "--replicas=2")
kubectl("rollout", "status", "deployment", "web", "--timeout=60s")
time.sleep(3)
for load in loads:
    load.ends = True
    load.join()
    print(f"{load.host}: {load.good} requests went well, {len(load.bad)} did not {load.bad[:5]}")
if any(load.bad for load in loads):
    sys.exit("requests failed")
if (code := tidegate.stop()) != 0:
    sys.exit(f"it ended with {code}")
