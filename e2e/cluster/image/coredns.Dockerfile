# DNS of the test cluster: one static program.
FROM scratch
COPY coredns /coredns
ENTRYPOINT ["/coredns"]
