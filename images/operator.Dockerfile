# The operator: its binary on a small base that has glibc and CA certificates. Runs as a number, needs neither a shell nor
# a writable file system.
#
#   in:  BASE: any image with glibc at least as new as where the binary was built; BINARY: its path in the build context
#   out: an image that runs `millrace-operator` with the arguments it is given
ARG BASE=debian:12-slim
FROM ${BASE}
ARG BINARY=millrace-operator
COPY ${BINARY} /usr/bin/millrace-operator
USER 65532:65532
ENTRYPOINT ["/usr/bin/millrace-operator"]
