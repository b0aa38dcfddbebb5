# One image for agent, holders and controller, so that they are always of one release. The last
# stage, full, has libguestfs for what is not read natively; --target slim leaves it out.
# What comes from Debian is in deploy/image, which also makes these images without a builder.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY agent/guestfs/binding/go.mod agent/guestfs/binding/
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN make build controller VERSION=${VERSION}

FROM build AS build-guestfs
RUN deploy/image/install.sh build
ARG VERSION=unknown
RUN make agent-guestfs VERSION=${VERSION}

FROM debian:bookworm-slim AS appliance
COPY deploy/image /image
RUN /image/appliance.sh /appliance

FROM debian:bookworm-slim AS slim
RUN --mount=type=bind,source=deploy/image,target=/image /image/install.sh slim
COPY --from=build /src/bin/vmfr-agent /src/bin/vmfr-controller /
ARG VERSION=unknown
LABEL org.opencontainers.image.title=vmfr \
      org.opencontainers.image.description="File-level restore from KubeVirt VM backups: agent and controller" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=${VERSION}
# The controller runs as this; agent and holders say in their pods what they run as, and why.
USER 65532:65532
# Manifests name the program.
ENTRYPOINT []
CMD ["/vmfr-agent", "--help"]

FROM slim AS full
USER 0:0
RUN --mount=type=bind,source=deploy/image,target=/image /image/install.sh full
COPY --from=appliance /appliance /usr/lib/vmfr/appliance
COPY --from=build-guestfs /src/bin/vmfr-agent-guestfs /usr/lib/vmfr/
ENV LIBGUESTFS_PATH=/usr/lib/vmfr/appliance
USER 65532:65532
