#!/usr/bin/env bash
# Fetches the ClickHouse engine library (libchdb.so) from the npm registry, once, and prints its path.
#
#   in:  MILLRACE_CACHE (or XDG_CACHE_HOME), npm as configured on this machine
#   out: the path of libchdb.so on standard output; everything else goes to standard error
#
# Version and digest are pinned here; a tarball with another digest is refused. The file appears under its
# final name only when it is complete, so that two runs at once, or a killed one, leave nothing half-written.
set -euo pipefail

package="@chdb/lib-linux-x64-gnu"
version="26.5.3"
integrity="sha512-fPrLmRt5Moor9yGz4mazbrNje4t7X9KB2mTGkXFWRxRBs2iKy8yh6jx11xsa0Qr3iDFMU/yHqd+bVdYJXu3QaQ=="

cache="${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}"
folder="$cache/engine/$version"
library="$folder/libchdb.so"

if [[ -s "$library" ]]; then
  echo "$library"
  exit 0
fi

if [[ "$(uname -s)-$(uname -m)" != "Linux-x86_64" ]]; then
  echo "engine-library: only Linux on x86_64 has a packaged engine library; point --library at your own libchdb.so" >&2
  exit 1
fi
for tool in npm tar openssl; do
  command -v "$tool" >/dev/null || { echo "engine-library: \`$tool\` is missing; install it and run again" >&2; exit 1; }
done

mkdir -p "$folder"
work="$(mktemp -d "$folder/.fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT

echo "engine-library: fetching $package@$version (167 MB, unpacks to 559 MB)" >&2
(cd "$work" && npm pack --silent "$package@$version" >/dev/null)
tarball="$(find "$work" -maxdepth 1 -name '*.tgz' -print -quit)"
if [[ -z "$tarball" ]]; then
  echo "engine-library: npm packed nothing for $package@$version; try \`npm view $package@$version dist\`" >&2
  exit 1
fi

digest="sha512-$(openssl dgst -sha512 -binary "$tarball" | openssl base64 -A)"
if [[ "$digest" != "$integrity" ]]; then
  echo "engine-library: digest of $package@$version is $digest, expected $integrity; nothing was installed" >&2
  exit 1
fi

tar -xzf "$tarball" -C "$work" package/libchdb.so
chmod 0644 "$work/package/libchdb.so"
mv -f "$work/package/libchdb.so" "$library"
echo "$library"
