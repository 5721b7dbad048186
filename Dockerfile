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
RUN cargo build --profile dist --locked && cp target/dist/call-legs /call-legs

# Run: the binary, certificate authorities, and the libraries that it links.
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libssl3 libzstd1 zlib1g \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/call-legs --create-home call-legs
COPY --from=build /call-legs /usr/local/bin/call-legs
USER 10001
WORKDIR /var/lib/call-legs
# Inside a container loopback would hide the port from probes and Prometheus.
ENV CALL_LEGS_ADMIN__LISTEN=0.0.0.0:9464 \
    CALL_LEGS_STATE__DIR=/var/lib/call-legs
VOLUME /var/lib/call-legs
EXPOSE 9464
ENTRYPOINT ["call-legs"]
CMD ["run", "--config", "/etc/call-legs/call-legs.toml"]
