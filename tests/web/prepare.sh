#!/bin/sh
# Where root asks for the tests of the page in a browser and Debian lacks Chromium, it is installed; nothing is started.
set -eu
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
[ ! -x /usr/bin/chromium ] || exit 0
[ -n "${BOX_LOCKED-}" ] || exec env BOX_LOCKED=1 flock /var/lock/t3flow-box sh "$0"  # one at a time: apt-get has a lock that it does not wait for
echo "web: installing chromium ..."
apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null || echo "web: could not install chromium" >&2
