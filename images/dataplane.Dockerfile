# The data plane, every role of it (the role is the first argument): its binary on a small base that has glibc and CA
# certificates. Runs as a number, needs neither a shell nor a writable file system besides the volumes it is told of.
#
#   in:  BASE: any image with glibc at least as new as where the binary was built; BINARY: its path in the build context
#   out: an image that runs `millrace-dataplane` with the arguments it is given
ARG BASE=debian:12-slim
FROM ${BASE}
ARG BINARY=millrace-dataplane
COPY ${BINARY} /usr/bin/millrace-dataplane
USER 65532:65532
ENTRYPOINT ["/usr/bin/millrace-dataplane"]
