#!/usr/bin/env bash
# Starts etcd, kube-apiserver and kube-controller-manager inside the network namespace $NS; tests/cluster/run calls it.
# Certificates, kubeconfigs, logs and pid files go to $RUN. Nothing listens outside the namespace.
set -euo pipefail
NS=${NS:?the network namespace}; : "${RUN:?a folder for state}" "${BIN:?the folder of the binaries}"
T0=$(date +%s.%N); t() { printf '%6.1fs %s\n' "$(python3 -c "print($(date +%s.%N)-$T0)")" "$*"; }
mkdir -p "$RUN"; cd "$RUN"
ip netns add "$NS"
ip -n "$NS" link set lo up
ip -n "$NS" link add br0 type bridge
ip -n "$NS" addr add 10.99.0.1/16 dev br0
ip -n "$NS" link set br0 up
ip -n "$NS" addr add 10.99.250.0/24 dev lo     # a pool for gateway / load-balancer addresses
# --- certificates
ext() { printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n%s' "$1"; }
newkey() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
newkey ca.key; openssl req -x509 -new -key ca.key -subj /CN=tidegate-test-ca -days 3650 -out ca.crt 2>/dev/null
leaf() { newkey "$1.key"; openssl req -new -key "$1.key" -subj "$2" | openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile <(ext "$3") -out "$1.crt" 2>/dev/null; }
leaf apiserver /CN=kube-apiserver "subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.99.0.1,IP:10.96.0.1"
leaf admin /O=system:masters/CN=admin ""
leaf kcm /CN=system:kube-controller-manager ""
openssl genrsa -out sa.key 2048 2>/dev/null; openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
kc() { cat > "$1.kubeconfig" <<K
{"apiVersion":"v1","kind":"Config","current-context":"test","contexts":[{"name":"test","context":{"cluster":"test","user":"u"}}],
"clusters":[{"name":"test","cluster":{"server":"https://10.99.0.1:6443","certificate-authority":"$RUN/ca.crt"}}],
"users":[{"name":"u","user":{"client-certificate":"$RUN/$1.crt","client-key":"$RUN/$1.key"}}]}
K
}
kc admin; kc kcm
t certs
spawn() { local n=$1; shift; nsenter --net="/run/netns/$NS" "$@" >"$n.log" 2>&1 & echo $! > "$n.pid"; }   # nsenter execs, so $! is the program's pid
spawn etcd "$BIN/etcd" --data-dir "$RUN/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380
spawn kube-apiserver "$BIN/kube-apiserver" --etcd-servers http://127.0.0.1:2379 \
  --bind-address 0.0.0.0 --secure-port 6443 --advertise-address 10.99.0.1 --service-cluster-ip-range 10.96.0.0/16 \
  --tls-cert-file apiserver.crt --tls-private-key-file apiserver.key --client-ca-file ca.crt \
  --authorization-mode RBAC --service-account-issuer https://kubernetes.default.svc \
  --service-account-key-file sa.pub --service-account-signing-key-file sa.key --allow-privileged
NSX="nsenter --net=/run/netns/$NS"
for i in $(seq 300); do $NSX curl -fs --cacert ca.crt --cert admin.crt --key admin.key https://10.99.0.1:6443/readyz >/dev/null && break; sleep 0.2; [ "$i" != 300 ] || { tail -20 kube-apiserver.log; exit 1; }; done
t apiserver-ready
spawn kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig kcm.kubeconfig --authentication-kubeconfig kcm.kubeconfig --authorization-kubeconfig kcm.kubeconfig \
  --bind-address 127.0.0.1 --leader-elect=false --use-service-account-credentials \
  --service-account-private-key-file sa.key --root-ca-file ca.crt \
  --controllers '*,-node-lifecycle-controller,-node-ipam-controller,-node-route-controller,-service-lb-controller,-cloud-node-lifecycle-controller,-horizontal-pod-autoscaler-controller'
for i in $(seq 200); do $NSX curl -fs --cacert ca.crt --cert admin.crt --key admin.key https://10.99.0.1:6443/api/v1/namespaces/default/serviceaccounts/default >/dev/null && break; sleep 0.2; done
t controller-manager-ready
