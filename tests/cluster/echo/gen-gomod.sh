#!/usr/bin/env bash
# Usage: gen-gomod.sh <version of istio.io/istio>. Writes go.mod and go.sum for the server and client of the image echo-advanced, which are
# Istio's. What that module asks of these three in unreleased versions is asked of released ones.
set -euo pipefail
cd "$(dirname "$0")"
rm -f go.mod go.sum
go mod init tidegate.invalid/tools/echo
go mod edit -go=1.26.0 -replace=istio.io/api=istio.io/api@v1.31.1 -replace=istio.io/client-go=istio.io/client-go@v1.31.1 \
  -replace=github.com/envoyproxy/go-control-plane/envoy=github.com/envoyproxy/go-control-plane/envoy@v1.37.0
go get -tool "istio.io/istio/pkg/test/echo/cmd/client@$1" "istio.io/istio/pkg/test/echo/cmd/server@$1"
