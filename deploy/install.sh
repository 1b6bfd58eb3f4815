#!/bin/sh
# usage: install.sh
#
# Installs t3flow on a host with systemd (Debian 12, Ubuntu 24.04), or upgrades it in place, a run in flight included. As root.
# The program goes into a virtual environment of its own below /opt/t3flow. The tarball of a release contains every package and needs no
# network. From a checkout, pip downloads the packages, or takes them from a folder: PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER install.sh.
# Killed anywhere, the program that was there goes on; run it again.
set -eu
umask 022
fail() { echo "install: $*" >&2; exit 1; }

[ $# = 0 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
. "$source/deploy/program.sh"
top=/opt/t3flow
settings=/etc/t3flow/config.toml

# What the host must have, all that is missing at once -------------------------------------------------------------------------------------
[ "$(id -u)" = 0 ] || fail "it changes accounts and units: run it as root"
[ -d /run/systemd/system ] || fail "systemd does not run here: t3flow needs it to restart servers"
missing=
for tool in python3 node npm setpriv unshare runuser systemd-sysusers systemd-tmpfiles; do
  command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ -z "$missing" ] || fail "not on PATH:$missing; install them first (apt install python3-venv util-linux, and Node.js 24)"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$(command -v python3) is older than Python 3.11: install a newer one"
python3 -c 'import ensurepip, venv' 2>/dev/null || fail "Python has no venv: apt install python3-venv"
exec 9>/run/t3flow-install.lock
flock -n 9 || fail "another installation is under way: wait for it"

# The program, beside the one that may be running ------------------------------------------------------------------------------------------
before=$(readlink "$top/current" || true)
mkdir -p "$top"
fresh=$(mktemp -d "$top/program-XXXXXX")
chmod 755 "$fresh"
make_program "$fresh" || {
  rm -rf "$fresh"; fail "the program cannot be installed (see above); nothing was changed.$remedy"; }
sync -f "$fresh"

# Settings: what is there stays, and must be readable to the new program -------------------------------------------------------------------
if [ -e "$settings" ]; then
  problems=$("$fresh/bin/t3flow" config check "$settings") || {
    rm -rf "$fresh"; fail "the new program cannot use the settings, nothing was changed; mend them, then run this again: $problems"; }
else
  mkdir -p /etc/t3flow
  "$fresh/bin/t3flow" config show --commented > "$settings.new"
  mv "$settings.new" "$settings"
fi

# Account, folders, units ------------------------------------------------------------------------------------------------------------------
put() { install -D -m 644 "$source/deploy/systemd/$1" "$2"; }
put sysusers.conf /usr/local/lib/sysusers.d/t3flow.conf
put tmpfiles.conf /usr/local/lib/tmpfiles.d/t3flow.conf
put t3flow.service /usr/local/lib/systemd/system/t3flow.service
put t3-serve.conf "/usr/local/lib/systemd/system/t3-serve@.service.d/t3flow.conf"
systemd-sysusers /usr/local/lib/sysusers.d/t3flow.conf
systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/t3flow.conf

# The change: one rename. The old consumer comes to a safe point, the new one goes on from there --------------------------------------------
lead() { ln -sfn "$1" "$top/.current" && mv -T "$top/.current" "$top/current"; }
lead "$fresh"
mkdir -p /usr/local/bin
ln -sfn "$top/current/bin/t3flow" /usr/local/bin/t3flow
systemctl daemon-reload
systemctl enable --quiet t3flow
if ! systemctl restart t3flow; then
  [ -n "$before" ] || fail "the consumer does not start: journalctl -u t3flow says why"
  lead "$before"
  systemctl restart t3flow || true
  fail "the new consumer does not start (journalctl -u t3flow says why): the former program is back"
fi
for old in "$top"/program-*; do  # only now: a consumer may have run from any of them
  [ "$old" = "$before" ] || [ "$old" = "$fresh" ] || rm -rf "$old"
done
echo "t3flow $(t3flow --version | sed 's/.* //') runs; settings: $settings"
[ -n "$before" ] || echo "next: look at the settings, then: t3flow adopt --dry-run; t3flow adopt"
