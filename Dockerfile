#   docker build --build-arg CALL_LEGS_COMMIT="$(git rev-parse --short HEAD)" --tag registry.example.com/call-legs:0.1.0 .
#
# Both bases are named by version, so a build takes their newest security fixes. To build the same image again, name them with
# the digest that `docker buildx imagetools inspect` prints: FROM debian:bookworm-slim@sha256:…

# Build: the toolchain that Cargo.toml names, with what librdkafka's C code and the bindings of OpenSSL need.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ make pkg-config libssl-dev zlib1g-dev libzstd-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The dependencies, in a layer of their own: a change in src does not build them again. Cargo builds them for an empty
# program, of which nothing may stay: a file that is older than its build would count as built.
COPY Cargo.toml Cargo.lock ./
# The allocator's settings.
COPY .cargo ./.cargo
# Not built here, but Cargo.toml names it.
COPY benches ./benches
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
 && cargo build --profile dist --locked \
 && cargo clean --profile dist --package call-legs && rm -r src
COPY src ./src
COPY schemas ./schemas
# Built in: `call-legs config example` prints it.
COPY config/call-legs.toml ./config/
# The commit that `call-legs --version` names.
ARG CALL_LEGS_COMMIT=""
RUN CALL_LEGS_COMMIT="$CALL_LEGS_COMMIT" cargo build --profile dist --locked && cp target/dist/call-legs /call-legs
# The licences of what is linked into it; those of the libraries below are in /usr/share/doc.
COPY .ci ./.ci
COPY LICENSE ./
RUN .ci/licences > /THIRD-PARTY.txt

# Run: the binary, certificate authorities, and the libraries that it links.
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libssl3 libzstd1 zlib1g \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10001 call-legs \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/call-legs --create-home call-legs
COPY --from=build /call-legs /usr/local/bin/call-legs
COPY --from=build /build/LICENSE /THIRD-PARTY.txt /usr/share/doc/call-legs/
# By number: Kubernetes' runAsNonRoot knows no names.
USER 10001:10001
WORKDIR /var/lib/call-legs
# Inside a container loopback would hide the port from probes and Prometheus.
ENV CALL_LEGS_ADMIN__LISTEN=0.0.0.0:9464 \
    CALL_LEGS_STATE__DIR=/var/lib/call-legs
VOLUME /var/lib/call-legs
EXPOSE 9464
# Unhealthy means that a worker is stuck, which a restart mends. A daemon that waits for Kafka or the API is healthy. The other
# commands have no port to ask: run them with --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=15s --start-period=2m --retries=3 CMD ["call-legs", "status", "--alive"]
ENTRYPOINT ["call-legs"]
CMD ["run", "--config", "/etc/call-legs/call-legs.toml"]
ARG CALL_LEGS_COMMIT=""
LABEL org.opencontainers.image.title="call-legs" \
      org.opencontainers.image.description="Polls the 8x8 Work Analytics call-legs API and publishes every call leg to Kafka as Avro" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$CALL_LEGS_COMMIT" \
      org.opencontainers.image.licenses="Apache-2.0"
