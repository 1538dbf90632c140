# The binary alone, on an image without a shell.
#
#   docker build -t tidegate .
#   docker run --read-only -p 8080:8080 -v "$PWD/config:/etc/tidegate:ro" tidegate run --config /etc/tidegate/minimal.yaml
#
# Nothing is written to the file system unless the configuration names a file for the access log, or a store for ACME
# (`acme.store`): mount a volume there that the user `nonroot` owns.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin tidegate \
    && cp target/release/tidegate /tidegate

# For `tidegate sidecar init`, which needs nft or iptables: docker build --target init -t tidegate-init .
FROM debian:bookworm-slim AS init
RUN apt-get update && apt-get install -y --no-install-recommends nftables iptables && rm -rf /var/lib/apt/lists/*
COPY --from=build /tidegate /tidegate
ENTRYPOINT ["/tidegate", "sidecar", "init"]

# The same release of Debian as above, so that both have one C library.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /tidegate /tidegate
# Traffic; and metrics, readiness and the dashboard, which are on 127.0.0.1:9901 unless admin.address or --admin says
# otherwise.
EXPOSE 8080 9901
# SIGTERM is what ends it in good order, and what `docker stop` sends.
ENTRYPOINT ["/tidegate"]
CMD ["run", "--config", "/etc/tidegate/tidegate.yaml"]
