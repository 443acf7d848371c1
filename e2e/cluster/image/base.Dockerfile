# What the binaries load, as `ldd` shows, and CA certificates; files come from the Debian packages that hold them.
FROM scratch
COPY root /
