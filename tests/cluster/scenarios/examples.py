"""deploy/cluster-examples, applied and called: a pair of services, a WebSocket, canaries, a StatefulSet, MQTT over TCP, DNS
over UDP, and more pods under load."""
import collections, http.client, json, pathlib, socket, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from cluster import *

setup()
kubectl("apply", "-f", f"{ROOT}/deploy/cluster-examples")
tidegate = Tidegate("--gateway-pool", "10.99.250.64/26")
tidegate.ready()
G = "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/examples"
address = until("the Gateway's address", lambda: api("GET", G).get("status", {}).get("addresses"))[0]["value"]
kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")


def ask(host, path="/", to=address, **fields):
    connection = http.client.HTTPConnection(to, 80, timeout=10)
    connection.request("GET", path, headers={"Host": host} | {name.replace("_", "-"): value for name, value in fields.items()})
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, json.loads(text) if answer.status == 200 else text


def pods(count, host, **more):
    answers = [ask(host, **more) for _ in range(count)]
    if bad := [answer for answer in answers if answer[0] != 200]:
        sys.exit(f"{host}: {bad[:3]}")
    return collections.Counter(answer[1]["pod"].rsplit("-", 2)[0] if "store" not in answer[1]["pod"] else answer[1]["pod"] for answer in answers)


for host, to in (("pair.example", address), ("shop.example", address), ("store.example", address), ("chat.example", INGRESS),
                 ("shop-ingress.example", INGRESS)):
    until(f"{host} to be served", lambda: ask(host, to=to)[0] == 200)
status, said = ask("pair.example", "/api/items")
if (status, said["path"], said["pod"].split("-")[0]) != (200, "/items", "backend"):
    sys.exit(f"the pair: {status} {said}")
if ask("pair.example", "/other")[1]["pod"].split("-")[0] != "frontend":
    sys.exit("the pair's frontend")

for host, to in (("shop.example", address), ("shop-ingress.example", INGRESS)):
    shares = pods(500, host, to=to)
    print(f"{host}: {dict(shares)}")
    if not 20 <= shares["shop-next"] <= 90:  # 50 are expected; 4.5 and 6 standard deviations
        sys.exit("the canary's share")
if set(pods(20, "shop-ingress.example", to=INGRESS, x_canary="always")) != {"shop-next"}:
    sys.exit("the canary by header")
if set(pods(20, "shop-ingress.example", to=INGRESS, x_canary="never")) != {"shop"}:
    sys.exit("no canary by header")

users = {user: pods(5, "store.example", x_user=f"u{user}") for user in range(60)}
if any(len(seen) != 1 for seen in users.values()) or len({pod for seen in users.values() for pod in seen}) != 3:
    sys.exit(f"users and their pods: {users}")

# MQTT 3.1.1: one client hears what another says (CONNECT, SUBSCRIBE, PUBLISH with quality 0).
def mqtt(name):
    client = socket.create_connection((address, 1883), 10)
    client.sendall(bytes([0x10, 12 + len(name), 0, 4]) + b"MQTT" + bytes([4, 2, 0, 60, 0, len(name)]) + name)
    if (answer := client.recv(4)) != b"\x20\x02\x00\x00":
        sys.exit(f"MQTT: {answer}")
    return client


def broker():
    try:
        mqtt(b"probe").close()
        return True
    except OSError:
        return False


until("the broker to be there", broker)
listener, speaker = mqtt(b"listener"), mqtt(b"speaker")
listener.sendall(b"\x82\x0c\x00\x01\x00\x07weather\x00")
if (answer := listener.recv(5)) != b"\x90\x03\x00\x01\x00":
    sys.exit(f"MQTT's SUBACK: {answer}")
speaker.sendall(b"\x30\x0c\x00\x07weatherfog")
if (heard := listener.recv(64)) != b"\x30\x0c\x00\x07weatherfog":
    sys.exit(f"MQTT: {heard}")
listener.close(), speaker.close()
print("MQTT goes through")

# DNS (RFC 1035 §4): a question for whoami.example's address, and the same number in the answer.
def resolve(number):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.sendto(number.to_bytes(2, "big") + b"\x01\x00\x00\x01\0\0\0\0\0\0\x06whoami\x07example\0\0\x01\0\x01", (address, 53))
        try:
            return client.recv(512)
        except OSError:
            return b""


until("DNS to be answered", lambda: resolve(1))
answers = [resolve(number) for number in range(100)]
if bad := [number for number, answer in enumerate(answers) if answer[:2] != number.to_bytes(2, "big") or not answer[2] & 0x80]:
    sys.exit(f"{len(bad)} of 100 questions had no answer: {bad[:5]}")
print("100 DNS questions were answered")

# A WebSocket that lives through a change of its route's endpoints.
chat = socket.create_connection((INGRESS, 80), 10)
chat.sendall(b"GET /ws HTTP/1.1\r\nHost: chat.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://chat.example\r\n"
             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
head = b""
while b"\r\n\r\n" not in head:
    head += chat.recv(4096)
if not head.startswith(b"HTTP/1.1 101"):
    sys.exit(f"no WebSocket: {head}")
kubectl("scale", "deployment", "chat", "--replicas=4")
until("more pods to answer", lambda: len({ask("chat.example", to=INGRESS)[1]["pod"] for _ in range(30)}) == 4)
chat.settimeout(0.5)
try:
    more = chat.recv(4096)
    if not more:
        sys.exit("the WebSocket was closed")
except TimeoutError:
    pass
print("a WebSocket outlived a change of endpoints")

# Scaled out and in under requests.
failed = 0
for replicas in (4, 1, 3):
    kubectl("scale", "statefulset", "store", f"--replicas={replicas}")
    for number in range(200):
        failed += ask("store.example", x_user=f"u{number}")[0] != 200
if failed:
    sys.exit(f"{failed} requests failed while pods came and went")
print("600 requests went well while pods came and went")
status = subprocess.run([os.environ["TIDEGATE"], "status", "--admin", ADMIN], capture_output=True, text=True)
print(status.stdout)
if status.returncode != 0 or "Ingress" not in status.stdout:
    sys.exit(f"tidegate status: {status.returncode} {status.stderr}")
chat.close()  # or the drain would wait for it
if (code := tidegate.stop()) != 0:
    sys.exit(f"it ended with {code}")
