#!/bin/sh
# usage: setup.sh VENV PYTHON: makes a virtual environment with t3flow (editable) and all that demo and tests need.
set -eu
venv=$1 python=$2
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: $python is older than 3.11; name another: make PYTHON=python3.12" >&2; exit 1; }
rm -rf "$venv"
if ! "$python" -m venv "$venv" 2>/dev/null; then
  # Debian keeps this part of Python in a package of its own
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || {
    echo "setup: $python cannot make virtual environments; have the package python3-venv installed" >&2; exit 1; }
  apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
  rm -rf "$venv"
  "$python" -m venv "$venv"
fi
echo "setup: installing what is needed into $venv ..."
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
"$venv/bin/python" -m compileall -q t3flow  # as the owner of the files: most processes of the tests cannot write there
