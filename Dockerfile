# examples/server as an image: one static program and the certificates of the
# public authorities. There is no shell, no package manager and no other file.
#
#	docker build -t proxy .
#	docker run --rm -p 127.0.0.1:8787:8787 -e OPENAI_API_KEY proxy -hosts localhost,127.0.0.1
#
# What follows the image's name are flags of the server; -help lists them, and
# the variables that say the same.

# The tag is the Go version of go.mod.
FROM golang:1.26 AS build
WORKDIR /src
# The modules are a layer of their own: they change less often than the code.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Without cgo the program needs no C library, which scratch does not have; names
# are then resolved by Go itself, from the /etc/resolv.conf that Docker mounts.
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /server ./examples/server

FROM scratch
# The upstream's certificate is checked against these.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /server /server
# By number: there is no /etc/passwd that could give a name a meaning, and
# Kubernetes' runAsNonRoot believes numbers only.
USER 65532:65532
# Inside a container loopback is the container's own, so the default address
# would be out of reach. On every address the server answers to any Host; name
# the ones it has with -hosts or ALLOWED_HOSTS, or a page that points its name
# here (DNS rebinding) passes for a page of this server.
ENV LISTEN=0.0.0.0:8787
EXPOSE 8787
ENTRYPOINT ["/server"]
