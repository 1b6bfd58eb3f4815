#!/bin/sh
# usage: uninstall.sh
#
# Removes t3flow from this host. Run it as root. It stops no server, removes no data, and lists what it keeps.
# If all users run one version, the launcher becomes that version of t3; otherwise the launcher stays, which does not need t3flow.
# If it is killed, run it again.
set -eu
umask 022
fail() { echo "uninstall: $*" >&2; exit 1; }

[ $# = 0 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || fail "run it as root"
top=/opt/t3flow
t3flow=$top/current/bin/t3flow
unit=/usr/local/lib/systemd/system/t3flow.service
web=/usr/local/lib/systemd/system/t3flow-web
exec 9>/run/t3flow-install.lock
flock -n 9 || fail "an installation is in progress; wait for it"
rm -rf "$top.gone"  # left by a run that was killed at its last line
[ -x "$t3flow" ] || fail "t3flow is not installed in $top"

setting() { "$t3flow" config show "$1"; }
versions=$(setting paths.versions_dir)
launcher=$(setting paths.launcher)

# No user may be left halfway ---------------------------------------------------------------------------------------------------------------
if [ -e "$(setting paths.state_dir)/journal.db" ]; then
  status=$("$t3flow" status --json) || fail "t3flow cannot tell whether a run is in progress (see above) and nothing was changed"
  known() { printf '%s' "$status" | "$top/current/bin/python" -c "import json, sys; found = json.load(sys.stdin); print($1)"; }
  problem=$(known 'next((each["text"] for each in found["problems"] if each["key"] == "journal"), "")')
  [ -z "$problem" ] || fail "$problem; nothing was changed; to remove t3flow all the same, move the journal away"
  run=$(known 'found["run"] or ""')
  [ -z "$run" ] || fail "$run is in progress; wait for it, or run: t3flow cancel $run"
fi
one='' several='' users=0
for link in "$versions/current" "$versions"/users/*; do
  [ -L "$link" ] || continue
  version=$(basename -- "$(readlink "$link")")
  [ "$version" != hold ] || fail "the database of $(basename "$link") is being restored; start t3flow and wait for it (t3flow status)"
  [ -z "$one" ] || [ "$version" = "$one" ] || several=1
  one=$version users=$((users + 1))
done

# Remove the program --------------------------------------------------------------------------------------------------------------------------
[ ! -e "$unit" ] || systemctl disable --quiet --now t3flow
[ ! -e "$web.socket" ] || systemctl disable --quiet --now t3flow-web.socket t3flow-web.service 2>/dev/null || systemctl stop t3flow-web.socket t3flow-web.service
rm -f "$unit" "$web.socket" "$web.service" "/usr/local/lib/systemd/system/t3-serve@.service.d/t3flow.conf" \
  /usr/local/lib/sysusers.d/t3flow.conf /usr/local/lib/tmpfiles.d/t3flow.conf /usr/local/bin/t3flow
if grep -qs 't3flow_hint' /etc/profile.d/t3flow.sh; then rm -f /etc/profile.d/t3flow.sh; fi
rmdir "/usr/local/lib/systemd/system/t3-serve@.service.d" 2>/dev/null || true
systemctl daemon-reload

plain=$versions/versions/$one
if [ ! -e "$launcher" ]; then
  echo "$launcher does not exist: running servers keep running, but cannot be started again without it"
elif ! grep -q '^# Written by t3flow' "$launcher"; then
  echo "kept: $launcher, which t3flow did not write"
elif [ -n "$several" ]; then
  echo "kept: $launcher, a script that starts each user's version, because users run several:"
  for link in "$versions"/users/*; do echo "        $(basename "$link") $(basename -- "$(readlink "$link")")"; done
elif [ "$(readlink -f "$(command -v node)")" != "$(readlink -f "$plain/.node")" ]; then
  echo "kept: $launcher, because $one needs $(readlink -f "$plain/.node") and not the node that is first on PATH"
else
  ln -sfn "$plain/node_modules/.bin/t3" "$launcher.t3flow"
  mv -T "$launcher.t3flow" "$launcher"
  echo "$launcher is now t3 $one itself; to install it with npm again: rm $launcher; npm install --global t3@$one"
fi
for account in t3flow t3flow-web; do
  if getent passwd $account >/dev/null; then userdel $account || echo "kept: the account $account, because userdel failed"; fi
done
echo "kept: $versions (the versions that servers run)"
echo "kept: $(setting paths.backup_dir) (snapshots), $(setting paths.state_dir) (history), /etc/t3flow (settings), $(setting paths.last_good_file)"
former=$(dirname -- "$launcher")/.$(basename -- "$launcher").before-t3flow
if [ -e "$former" ] || [ -L "$former" ]; then echo "kept: $former, the $launcher from before t3flow"; fi
freeze=$(setting paths.freeze_file)
if [ -e "$freeze" ]; then echo "kept: $freeze, which also freezes any other tracker"; fi
mv -T "$top" "$top.gone"  # never leave half a program
rm -rf "$top.gone"
