# A pod that can do something: for the smoke check and for tests that need a client inside.
FROM scratch
COPY busybox /bin/busybox
USER 65532:65532
ENTRYPOINT ["/bin/busybox"]
