#!/bin/sh
# usage: uninstall.sh
#
# Takes t3flow off this host, as root. No server is stopped or restarted, and no data is removed; it says what it kept.
# Where everybody is on one version, the launcher becomes plain t3 of that version; else it stays, which needs nothing of t3flow.
# Killed anywhere, run it again.
set -eu
umask 022
fail() { echo "uninstall: $*" >&2; exit 1; }

[ $# = 0 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || fail "run it as root"
top=/opt/t3flow
t3flow=$top/current/bin/t3flow
unit=/usr/local/lib/systemd/system/t3flow.service
exec 9>/run/t3flow-install.lock
flock -n 9 || fail "an installation is under way: wait for it"
rm -rf "$top.gone"  # of one that was killed at its last line
[ -x "$t3flow" ] || fail "there is no t3flow in $top"

setting() { "$t3flow" config show "$1"; }
versions=$(setting paths.versions_dir)
launcher=$(setting paths.launcher)

# Nobody may be left half-way ---------------------------------------------------------------------------------------------------------------
if [ -e "$(setting paths.state_dir)/journal.db" ]; then
  run=$("$t3flow" status --json | "$top/current/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["run"] or "")')
  [ -z "$run" ] || fail "$run is under way: wait for it, or end it first: t3flow cancel $run"
fi
one='' several='' users=0
for link in "$versions/current" "$versions"/users/*; do
  [ -L "$link" ] || continue
  version=$(basename -- "$(readlink "$link")")
  [ "$version" != hold ] || fail "the database of $(basename "$link") is being restored: start t3flow and wait (t3flow status)"
  [ -z "$one" ] || [ "$version" = "$one" ] || several=1
  one=$version users=$((users + 1))
done

# The program goes --------------------------------------------------------------------------------------------------------------------------
[ ! -e "$unit" ] || systemctl disable --quiet --now t3flow
rm -f "$unit" "/usr/local/lib/systemd/system/t3-serve@.service.d/t3flow.conf" \
  /usr/local/lib/sysusers.d/t3flow.conf /usr/local/lib/tmpfiles.d/t3flow.conf /usr/local/bin/t3flow
rmdir "/usr/local/lib/systemd/system/t3-serve@.service.d" 2>/dev/null || true
systemctl daemon-reload

plain=$versions/versions/$one
if [ ! -e "$launcher" ]; then
  echo "there is no $launcher: the servers run on, and need one to be started again"
elif ! grep -q '^# Written by t3flow' "$launcher"; then
  echo "left alone: $launcher, which is none of t3flow's"
elif [ -n "$several" ]; then
  echo "kept: $launcher, as users are on several versions; it is a script that leads each to theirs:"
  for link in "$versions"/users/*; do echo "        $(basename "$link") $(basename -- "$(readlink "$link")")"; done
elif [ "$(readlink -f "$(command -v node)")" != "$(readlink -f "$plain/.node")" ]; then
  echo "kept: $launcher, as $one runs on $(readlink -f "$plain/.node") and not on the node that is first on PATH"
else
  ln -sfn "$plain/node_modules/.bin/t3" "$launcher.t3flow"
  mv -T "$launcher.t3flow" "$launcher"
  echo "$launcher is plain t3 $one now; to have it from npm again: rm $launcher; npm install --global t3@$one"
fi
if getent passwd t3flow >/dev/null; then userdel t3flow || echo "kept: the account t3flow, which userdel did not remove"; fi
echo "kept: $versions, where the versions are that the servers run"
echo "kept: $(setting paths.backup_dir) (snapshots), $(setting paths.state_dir) (history), /etc/t3flow (settings), $(setting paths.last_good_file)"
former=$(dirname -- "$launcher")/.$(basename -- "$launcher").before-t3flow
if [ -e "$former" ] || [ -L "$former" ]; then echo "kept: $former, the $launcher of before t3flow"; fi
freeze=$(setting paths.freeze_file)
if [ -e "$freeze" ]; then echo "kept: $freeze, which holds any other tracker too"; fi
mv -T "$top" "$top.gone"  # half a program is none
rm -rf "$top.gone"
