"""Plays a cloud's load balancers and kube-proxy for the Services of Gateways, as a thread of a scenario.

Each Service of the type LoadBalancer gets an address (the one that it asks for, if that is of the pool). What comes to that, or to the
cluster's address of a Service that we made, goes on to the endpoints of the Service's slices, by rules of nft in the namespace of the run: to
one that is ready, or else that is serving and terminating; where there is none, it is refused."""
import ipaddress, json, subprocess, threading, time, urllib.parse

from cluster import api

POOL = ipaddress.ip_network("10.99.250.128/25")  # given out
USABLE = ipaddress.ip_network("10.99.250.0/24")  # may be asked for
OURS = urllib.parse.quote("app.kubernetes.io/managed-by=tidegate")


class Balancer(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.given, self.rules, self.ends, self.failures = {}, None, False, 0

    def run(self):
        while not self.ends:
            try:
                self.turn()
            except OSError as error:  # the API server's refusals too: an object that is gone, or was changed in between
                self.failures += 1
                if self.failures > 200:
                    print("balancer:", repr(error), flush=True)
            time.sleep(0.05)

    def turn(self):
        services = api("GET", f"/api/v1/services?labelSelector={OURS}")["items"]
        slices = api("GET", f"/apis/discovery.k8s.io/v1/endpointslices?labelSelector={OURS}")["items"]
        there = {self.name(service) for service in services}
        self.given = {name: address for name, address in self.given.items() if name in there}
        for service in services:
            if service["spec"]["type"] == "LoadBalancer":
                self.give(service)
        rules = self.rules_of(services, slices)
        if rules != self.rules:
            subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
            self.rules = rules

    @staticmethod
    def name(service):
        return service["metadata"]["namespace"] + "/" + service["metadata"]["name"]

    def give(self, service):
        name, asked = self.name(service), service["spec"].get("loadBalancerIP")
        others = {address for other, address in self.given.items() if other != name}
        if asked:
            is_usable = ipaddress.ip_address(asked) in USABLE and asked not in others
            address = asked if is_usable else None
        else:
            address = self.given.get(name) or next(str(one) for one in POOL.hosts() if str(one) not in others)
        self.given.pop(name, None)
        if address:
            self.given[name] = address
        wanted = [{"ip": address}] if address else []
        known = [{"ip": one["ip"]} for one in service.get("status", {}).get("loadBalancer", {}).get("ingress", [])]
        if known != wanted:
            api("PATCH", f"/api/v1/namespaces/{name.replace('/', '/services/')}/status", {"status": {"loadBalancer": {"ingress": wanted}}})

    def rules_of(self, services, slices):
        lines = []
        for service in services:
            name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
            own = [one for one in slices if one["metadata"]["namespace"] == namespace
                   and one["metadata"]["labels"].get("kubernetes.io/service-name") == name]
            for port in service["spec"]["ports"]:
                to = targets(own, port["name"])
                for address in filter(None, [self.given.get(f"{namespace}/{name}"), service["spec"].get("clusterIP")]):
                    lines.append(f"    ip daddr {address} {port['protocol'].lower()} dport {port['port']} {way(to)}")
        # Both places that a packet may come from: programs of this namespace, and pods.
        hooks = (("output", "output"), ("prerouting", "prerouting"))
        chains = "".join(f"  chain {chain} {{\n    type nat hook {hook} priority -100;\n" + "\n".join(line for line in sorted(lines) if "reject" not in line)
                         + "\n  }\n" for chain, hook in hooks)
        refused = "\n".join(line for line in sorted(lines) if "reject" in line)
        return (f"table ip gateways {{}}\ndelete table ip gateways\ntable ip gateways {{\n{chains}"
                f"  chain refused {{\n    type filter hook output priority 0;\n{refused}\n  }}\n}}\n")


def targets(slices, port):
    """Where a port of a Service leads to: addresses with ports."""
    ready, ending = set(), set()
    for one in slices:
        numbers = [known["port"] for known in one.get("ports") or [] if known["name"] == port]
        for endpoint in one.get("endpoints") or []:
            conditions = endpoint.get("conditions", {})
            for number in numbers:
                place = (endpoint["addresses"][0], number)
                if conditions.get("ready", True):
                    ready.add(place)
                elif conditions.get("serving", True) and conditions.get("terminating"):
                    ending.add(place)
    return sorted(ready or ending)


def way(places):
    if not places:
        return "reject"
    number = places[0][1]
    addresses = [address for address, port in places if port == number]
    if len(addresses) == 1:
        return f"dnat to {addresses[0]}:{number}"
    table = ", ".join(f"{at} : {address}" for at, address in enumerate(addresses))
    return f"dnat to numgen random mod {len(addresses)} map {{ {table} }}:{number}"
