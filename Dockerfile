# Agent and controller as static binaries on an empty root: they need no shell and no libraries. One
# image for both, so that holders and controller are always of one release.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN make build controller VERSION=${VERSION} && mkdir state

FROM scratch
COPY --from=build /src/bin/vmfr-agent /src/bin/vmfr-controller /
# Object storage is reached by certificates of public authorities, unless its location has its own.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build --chown=65532:65532 /src/state /state
# The controller and the sample run as this; the node's pods say for themselves what they run as.
USER 65532:65532
EXPOSE 2222 8443
ENTRYPOINT ["/vmfr-agent"]
CMD ["serve", "--sample", "--state", "/state", "--listen-ssh", "0.0.0.0:2222", "--listen-https", "0.0.0.0:8443"]
