#!/bin/sh
# Installs a C compiler for tests with a clock of their own, where root can. Elsewhere these tests say that they were skipped.
set -eu
if command -v cc >/dev/null || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then exit 0; fi
echo "compiler: installing gcc ..."
apt-get install -y -qq gcc libc6-dev >/dev/null 2>&1 || {
  apt-get update -qq && apt-get install -y -qq gcc libc6-dev >/dev/null 2>&1; } || echo "compiler: could not install gcc" >&2
