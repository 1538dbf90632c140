#!/usr/bin/env bash
# Builds etcd, kube-apiserver, kube-controller-manager, kubectl (COMPONENTS to change) into $BIN, with timings. The pod runner also schedules.
set -euo pipefail
cd "$(dirname "$0")"
: "${BIN:?the folder for the binaries}"; mkdir -p "$BIN"
export CGO_ENABLED=0
K8S=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
P=k8s.io/component-base/version
minor=${K8S#v1.}; minor=${minor%%.*}
LD="-s -w -X $P.gitVersion=$K8S -X $P.gitMajor=1 -X $P.gitMinor=$minor -X $P.gitTreeState=clean -X $P.buildDate=1970-01-01T00:00:00Z"
step() { local s e; s=$(date +%s.%N); "${@:2}"; e=$(date +%s.%N); printf '%s %.1fs\n' "$1" "$(python3 -c "print($e-$s)")"; }
step "mod-download" go mod download
step "etcd" go build -trimpath -ldflags "-s -w" -o "$BIN/etcd" go.etcd.io/etcd/server/v3
for c in ${COMPONENTS:-kube-apiserver kube-controller-manager kubectl}; do
  step "$c" go build -trimpath -ldflags "$LD" -o "$BIN/$c" "k8s.io/kubernetes/cmd/$c"
done
ls -la "$BIN"
