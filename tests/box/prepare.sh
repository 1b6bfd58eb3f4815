#!/bin/sh
# Where root asks for the tests on a real systemd and Debian lacks it, it is installed; nothing is started.
set -eu
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
missing=
for pair in /lib/systemd/systemd:systemd /usr/bin/dbus-daemon:dbus /sbin/ip:iproute2 /usr/bin/curl:curl; do
  [ -e "${pair%%:*}" ] || missing="$missing ${pair##*:}"
done
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
[ -n "$missing" ] || exit 0
[ -n "${BOX_LOCKED-}" ] || exec env BOX_LOCKED=1 flock /var/lock/t3flow-box sh "$0"  # one at a time: apt-get has a lock that it does not wait for
echo "box: installing$missing ..."
# shellcheck disable=SC2086
apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null || echo "box: could not install$missing" >&2
