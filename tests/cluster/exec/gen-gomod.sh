#!/usr/bin/env bash
# Usage: gen-gomod.sh <version of k8s.io/cri-streaming, that of the other Kubernetes modules>
set -euo pipefail
cd "$(dirname "$0")"
rm -f go.mod go.sum
go mod init tidegate.invalid/tools/exec
go mod edit -go=1.26.0
go get "k8s.io/cri-streaming@$1"
go mod tidy
