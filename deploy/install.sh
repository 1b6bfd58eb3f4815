#!/bin/sh
# usage: install.sh
#
# Installs t3flow on a host with systemd (Debian 12, Ubuntu 24.04) or upgrades it in place; a run in flight resumes. Run it as root.
# The program goes into a virtual environment below /opt/t3flow. The tarball of a release contains every package and needs no network.
# From a checkout, pip downloads the packages or takes them from a folder: PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER install.sh.
# If it is killed, the installed program keeps running; run the script again.
set -eu
umask 022
fail() { echo "install: $*" >&2; exit 1; }

[ $# = 0 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
. "$source/deploy/program.sh"
top=/opt/t3flow
settings=/etc/t3flow/config.toml

# Requirements; names everything that is missing at once -------------------------------------------------------------------------------------
[ "$(id -u)" = 0 ] || fail "it must change accounts and units; run it as root"
[ -d /run/systemd/system ] || fail "systemd is not running; t3flow needs it to restart servers"
missing=
for tool in python3 node npm setpriv unshare runuser systemd-sysusers systemd-tmpfiles; do
  command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ -z "$missing" ] || fail "not on PATH:$missing; install them first (apt install python3-venv util-linux, and Node.js 24)"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$(command -v python3) is older than Python 3.11; install a newer one"
python3 -c 'import ensurepip, venv' 2>/dev/null || fail "Python has no venv module; run: apt install python3-venv"
exec 9>/run/t3flow-install.lock
flock -n 9 || fail "another installation is in progress; wait for it"

# The program, beside the one that may be running ------------------------------------------------------------------------------------------
before=$(readlink "$top/current" || true)
mkdir -p "$top"
fresh=$(mktemp -d "$top/program-XXXXXX")
chmod 755 "$fresh"
make_program "$fresh" || {
  rm -rf "$fresh"; fail "the program could not be installed (see above) and nothing was changed.$remedy"; }
sync -f "$fresh"

# Settings: existing ones stay and the new program must accept them -------------------------------------------------------------------
if [ -e "$settings" ]; then
  problems=$("$fresh/bin/t3flow" config check "$settings") || {
    rm -rf "$fresh"; fail "the new program does not accept the settings and nothing was changed; fix them and run this again: $problems"; }
else
  mkdir -p /etc/t3flow
  "$fresh/bin/t3flow" config show --commented > "$settings.new"
  mv "$settings.new" "$settings"
fi

# A journal that a newer t3flow wrote stays with it: the former program keeps running
if [ -n "$before" ]; then
  refusal=$("$fresh/bin/t3flow" runs --json 2>&1 >/dev/null) || [ $? != 2 ] || {
    rm -rf "$fresh"; fail "this release cannot take over and the former program keeps running: $refusal"; }
fi

# Account, folders, units ------------------------------------------------------------------------------------------------------------------
put() { install -D -m 644 "$source/deploy/systemd/$1" "$2"; }
put sysusers.conf /usr/local/lib/sysusers.d/t3flow.conf
put tmpfiles.conf /usr/local/lib/tmpfiles.d/t3flow.conf
for unit in t3flow.service t3flow-web.socket t3flow-web.service; do put "$unit" "/usr/local/lib/systemd/system/$unit"; done
put t3-serve.conf "/usr/local/lib/systemd/system/t3-serve@.service.d/t3flow.conf"
systemd-sysusers /usr/local/lib/sysusers.d/t3flow.conf
systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/t3flow.conf

# The switch is one rename. The old consumer stops at a safe point and the new one resumes there --------------------------------------------
lead() { ln -sfn "$1" "$top/.current" && mv -T "$top/.current" "$top/current"; }
lead "$fresh"
mkdir -p /usr/local/bin
ln -sfn "$top/current/bin/t3flow" /usr/local/bin/t3flow
systemctl daemon-reload
systemctl enable --quiet t3flow
if ! systemctl restart t3flow; then
  [ -n "$before" ] || fail "the consumer does not start; see: journalctl -u t3flow"
  lead "$before"
  systemctl restart t3flow || true
  fail "the new consumer does not start, so the former program was restored; see: journalctl -u t3flow"
fi
systemctl try-restart t3flow-web || echo "install: the status page does not start; see: journalctl -u t3flow-web" >&2  # where it is served at all
for old in "$top"/program-*; do  # only now, because a consumer may have run from any of them
  [ "$old" = "$before" ] || [ "$old" = "$fresh" ] || rm -rf "$old"
done
echo "t3flow $(t3flow --version | sed 's/.* //') runs; settings: $settings"
[ -n "$before" ] || echo "next: check the settings, then run: t3flow adopt --dry-run; t3flow adopt"
