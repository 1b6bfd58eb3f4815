#!/bin/sh
# usage: hooks.sh: installs tools/pre-commit as the hook of this clone. Idempotent; refuses to replace a hook of yours.
set -eu
hook=$(git rev-parse --git-path hooks)/pre-commit
text='#!/bin/sh
# Installed by "make hooks"; remove this file to switch it off.
exec tools/pre-commit'
if [ -e "$hook" ] && [ "$(cat "$hook")" != "$text" ]; then
  echo "hooks: $hook exists and is not from this project; move it away, or call tools/pre-commit from it" >&2
  exit 1
fi
mkdir -p "$(dirname "$hook")"
printf '%s\n' "$text" > "$hook.new"
chmod 755 "$hook.new"
mv "$hook.new" "$hook"
echo "hooks: git commit runs tools/pre-commit from now on; git commit --no-verify skips it"
