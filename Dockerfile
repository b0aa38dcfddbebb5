# The agent as a static binary on an empty root: it needs no shell and no libraries.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN make build VERSION=${VERSION}

FROM scratch
COPY --from=build /src/bin/vmfr-agent /usr/bin/vmfr-agent
EXPOSE 2222 8443
ENTRYPOINT ["/usr/bin/vmfr-agent"]
CMD ["serve", "--sample", "--state", "/state", "--listen-ssh", "0.0.0.0:2222", "--listen-https", "0.0.0.0:8443"]
