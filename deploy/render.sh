#!/usr/bin/env bash
# Renders the chart into deploy/kubernetes (and what is added by a switch into overlays), for those who do not use Helm: `deploy/render.sh [HELM]`. With `--check` before it,
# says whether what is there is what the chart gives.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
check=
[ "${1:-}" = --check ] && { check=1; shift; }
helm=${1:-helm}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

part() {
  local only=()
  for name in "${@:2}"; do only+=(--show-only "templates/$name.yaml"); done
  [ "$name" != inject ] || only+=(--set inject.enabled=true)
  [ "$name" != acme ] || only+=(--set acme.enabled=true,acme.termsAgreed=true)
  [ "$name" != gateway-services ] || only+=(--set gatewayServices.enabled=true)
  "$helm" template tidegate "$here/helm/tidegate" --namespace tidegate \
    --api-versions gateway.networking.k8s.io/v1 "${only[@]}" |
    sed -e '/^# Source: /d' -e '/^ *helm\.sh\/chart: /d' -e '/^ *app\.kubernetes\.io\/managed-by: /d' -e 's/ *$//' -e '/^$/d' |
    sed -e '1{/^---$/d}' >"$out/part"
  { echo "# $1"; echo "# Rendered from deploy/helm/tidegate by deploy/render.sh."; } >"$out/$name.head"
}
{
  part "What Tidegate may do, and its namespace." rbac
  cat "$out/rbac.head"
  printf 'apiVersion: v1\nkind: Namespace\nmetadata:\n  name: tidegate\n---\n'
  cat "$out/part"
} >"$out/rbac.yaml"
{
  part "The classes by which Gateways and Ingresses say that they are for Tidegate. The GatewayClass needs the CRDs of the Gateway API." classes
  cat "$out/classes.head" "$out/part"
} >"$out/classes.yaml"
{
  part "Two replicas behind a Service. Every replica serves; the one that holds the Lease writes status and Events." config workload service scaling metrics
  cat "$out/metrics.head" "$out/part"
} >"$out/deployment.yaml"

{
  part "The injector of sidecars: a Deployment, its rights, and the webhook by which the API server asks it." inject
  cat "$out/inject.head" "$out/part"
} >"$out/inject.yaml"
{
  part "What a Service for every Gateway takes beside what the base has." gateway-services
  cat "$out/gateway-services.head" "$out/part"
} >"$out/rights.yaml"

{
  part "What Tidegate may do to keep certificates by ACME in Secrets of its own namespace." acme
  cat "$out/acme.head" "$out/part"
} >"$out/acme.yaml"

for file in kubernetes/{rbac,classes,deployment}.yaml kustomize/overlays/{inject/inject,acme/acme,gateway-services/rights}.yaml; do
  new=$out/$(basename "$file")
  if [ -n "$check" ]; then
    diff -u "$here/$file" "$new" || { echo "deploy/$file is not what the chart gives: deploy/render.sh"; exit 1; }
  else
    cp "$new" "$here/$file"
  fi
done
