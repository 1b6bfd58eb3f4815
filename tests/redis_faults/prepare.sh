#!/bin/sh
# Unpacks Debian's redis-server, which speaks TLS, into .cache/redis, for tests of Redis. Nothing is installed or started. A machine that has a
# redis-server with TLS, or cannot have one, is left alone; the tests then say what they skipped.
set -eu
folder=$(cd "$(dirname "$0")/../.." && pwd)/.cache/redis
[ ! -x "$folder/redis-server" ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 0
if program=$(command -v redis-server) && ldd "$program" | grep -q libssl; then exit 0; fi
if [ "$(id -u)" = 0 ] && [ -z "${BOX_LOCKED-}" ]; then
  exec env BOX_LOCKED=1 flock /var/lock/t3flow-box sh "$0"  # one at a time, as tests/box/prepare.sh
fi
echo "redis: unpacking redis-server ..."
mkdir -p "$folder"
scratch=$(mktemp -d "$folder/.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
libraries=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances redis-tools 2>/dev/null |
  grep -E '^(libjemalloc|liblzf|liblua5|lua-|libhiredis|libatomic)' | sort -u || true)
# shellcheck disable=SC2086
if ! apt-get download -qq redis-server redis-tools $libraries >/dev/null 2>&1; then
  [ "$(id -u)" = 0 ] && apt-get update -qq || true
  apt-get download -qq redis-server redis-tools $libraries >/dev/null 2>&1 || { echo "redis: could not download redis-server" >&2; exit 0; }
fi
for package in ./*.deb; do dpkg-deb -x "$package" tree; done
mkdir -p "$folder/lib"
find tree -name '*.so*' -exec cp -P {} "$folder/lib/" \;
cp -L tree/usr/bin/redis-check-rdb "$folder/redis-program"
printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec -a redis-server %s "$@"\n' "$folder/lib" "$folder/redis-program" > "$scratch/server"
sed -i '1s,.*,#!/bin/bash,' "$scratch/server"
chmod 755 "$scratch/server" "$folder"
mv "$scratch/server" "$folder/redis-server"  # by one rename: a kill leaves no part of a program
