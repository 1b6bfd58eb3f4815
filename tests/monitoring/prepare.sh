#!/bin/sh
# Unpacks Debian's Prometheus, its promtool, amtool, and the node exporter into .cache/monitoring, for tests/monitoring. Nothing is installed or
# started. A machine that has the programs, or cannot have them, is left alone; the tests then say what they skipped.
set -eu
programs="prometheus promtool amtool prometheus-node-exporter"
folder=$(cd "$(dirname "$0")/../.." && pwd)/.cache/monitoring
missing=
for program in $programs; do
  command -v "$program" >/dev/null || [ -x "$folder/$program" ] || missing="$missing $program"
done
[ -n "$missing" ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 0
if [ "$(id -u)" = 0 ] && [ -z "${BOX_LOCKED-}" ]; then
  exec env BOX_LOCKED=1 flock /var/lock/t3flow-box sh "$0"  # one at a time, as tests/box/prepare.sh
fi
echo "monitoring: unpacking$missing ..."
mkdir -p "$folder"
scratch=$(mktemp -d "$folder/.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
packages="prometheus prometheus-alertmanager prometheus-node-exporter"
# shellcheck disable=SC2086
if ! apt-get download -qq $packages >/dev/null 2>&1; then
  [ "$(id -u)" = 0 ] && apt-get update -qq || true
  apt-get download -qq $packages >/dev/null 2>&1 || { echo "monitoring: could not download $packages" >&2; exit 0; }
fi
for package in ./*.deb; do dpkg-deb -x "$package" tree; done
for program in $programs; do
  chmod 755 "tree/usr/bin/$program"
  mv "tree/usr/bin/$program" "$folder/$program"  # by one rename: a kill leaves no part of a program
done
chmod 755 "$folder"
