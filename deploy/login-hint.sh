# Tells a user at login that a move of their t3 server waits, and for what: one line, only if something waits. Opt in with:
#   install -m 644 deploy/login-hint.sh /etc/profile.d/t3flow.sh
# The consumer keeps the line in a file of the user's own. With another paths.state_dir, change the path below.
# Shells read this file: it must not fail, whatever is there, and it starts a program (head) only if there is a line to show.
case $- in *i*)
  t3flow_hint=/var/lib/t3flow/users/${USER:-${LOGNAME:-nobody}}/hint
  if [ -f "$t3flow_hint" ] && [ -r "$t3flow_hint" ] && [ -s "$t3flow_hint" ]; then
    { t3flow_line=$(exec head -c 300 "$t3flow_hint") || :; } 2>/dev/null
    t3flow_line=${t3flow_line%%'
'*}
    case $t3flow_line in '' | *[[:cntrl:]]*) ;; *) printf '%s\n' "$t3flow_line" ;; esac
  fi
  unset t3flow_hint t3flow_line
esac
:
