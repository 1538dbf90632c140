#!/usr/bin/env bash
# Usage: gen-gomod.sh <helm version, like v4.3.1>. Writes go.mod and go.sum for the helm that renders the chart.
set -euo pipefail
cd "$(dirname "$0")"
rm -f go.mod go.sum
go mod init tidegate.invalid/tools/helm
go get -tool "helm.sh/helm/v4/cmd/helm@$1"
