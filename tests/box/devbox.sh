#!/bin/bash
# devbox.sh: a throw-away Linux box with a REAL systemd as PID 1, in namespaces, over an
# overlay of this host's root.  Root needed; no docker, no nspawn, no tty.
#
#   devbox.sh up               boot (first time: make users), return when the boot is done
#   devbox.sh exec CMD...      run CMD inside, as root; the exit status is CMD's
#   devbox.sh crash            SIGKILL everything inside at once; disk state is kept for `up`
#   devbox.sh down             crash, and remove every trace (cgroups, mounts, state)
#   devbox.sh status | log     is it up | PID 1's own console output
#
# DEVBOX_NAME=devbox  DEVBOX_STATE=/tmp/$NAME-state  DEVBOX_USERS="alice bob wizard"
# DEVBOX_SHARE="/host/dir:/inside/dir[:rw] ..." (read-only unless :rw)
# DEVBOX_HIDE="/root ..." (default: /root, /mnt and this script's own top folder): each is an empty folder of the box's own, kept over boots
# DEVBOX_NET=private|host  DEVBOX_CGROUP=auto|unified|hybrid  DEVBOX_TIMEOUT=60
#
# NEVER run a systemd over a writable bind of the host's root: at boot it runs
# `systemd-tmpfiles --remove`, and Debian's `D /tmp` then empties the HOST's /tmp.
# Here / is an overlay, /tmp is a fresh tmpfs, and that tmpfiles line is switched off as well.
set -euo pipefail
NAME=${DEVBOX_NAME:-devbox}
S=${DEVBOX_STATE:-/tmp/$NAME-state}
USERS=${DEVBOX_USERS-alice bob wizard}
SHARE=${DEVBOX_SHARE-}
TOP=/$(readlink -f "$0" | cut -d/ -f2); case $TOP in /usr|/tmp|/opt|/home|/srv|/var|/etc) TOP=;; esac
HIDE=${DEVBOX_HIDE-/root /mnt $TOP}
NET=${DEVBOX_NET:-private}
CG=${DEVBOX_CGROUP:-auto}
TIMEOUT=${DEVBOX_TIMEOUT:-60}
P=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
die() { echo "devbox: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "needs root"
for x in $SHARE; do case $x in /*:/tmp*|/*:/run*|/*:/var/tmp*|/*:/dev*) die "no share under /tmp, /run, /var/tmp, /dev: $x";; /*:/?*) ;; *) die "a share is /host:/inside[:rw]: $x";; esac; done

hierarchies() {   # the host's cgroup hierarchies, one a line: v1|v2 DIR CONTROLLERS
  awk '$3=="cgroup2"{print "v2",$2,"-"}
       $3=="cgroup"{n=split($4,o,","); c=""; for(i=1;i<=n;i++) if(o[i]!~/^(rw|ro|nosuid|nodev|noexec|relatime|xattr|release_agent=.*)$/) c=c (c==""?"":",") o[i]; print "v1",$2,c}' /proc/mounts
}
initpid() {       # host pid of the box's PID 1; the file holds "pid starttime", so a reused pid cannot fool us
  local p t
  { read -r p t < "$S/pid"; } 2>/dev/null || return 1
  [ "$(cut -d' ' -f22 "/proc/$p/stat" 2>/dev/null)" = "$t" ] || return 1
  echo "$p"
}
enter() (
  p=$(initpid) || die "not up"
  n=(-m -u -i -p -C); [ "$NET" = host ] || n+=(-n)
  while read -r t d c; do   # count as the box's own process (cgroup init.scope), not as a stranger from outside its root
    for x in "$d/$NAME/init.scope" "$d/$NAME"; do if [ -d "$x" ]; then echo "$BASHPID" > "$x/cgroup.procs"; break; fi; done 2>/dev/null || true
  done < <(hierarchies)
  # -F and a bash that forks: an nsenter that forks by itself stops when systemd-shutdown stops its child, and then
  # the box can never finish dying (its PID 1 waits for a zombie whose stopped parent is out here)
  exec nsenter -F -t "$p" "${n[@]}" env -i PATH=$P HOME=/root LANG=C.UTF-8 TERM=dumb SYSTEMD_PAGER= SYSTEMD_COLORS=0 \
    container=devbox bash -c 'env -- "$@"; exit $?' devbox-exec "$@"   # env, as a builtin (kill!) would act on the host's processes
)
rmcg() {          # remove the (empty) cgroups of the box in every hierarchy
  local t d c i
  while read -r t d c; do
    for i in $(seq 100); do
      [ -d "$d/$NAME" ] || break
      find "$d/$NAME" -depth -type d -exec rmdir {} \; 2>/dev/null || true
      [ ! -d "$d/$NAME" ] || sleep 0.05
    done
    [ ! -d "$d/$NAME" ] || echo "devbox: left behind $d/$NAME" >&2
  done < <(hierarchies)
}
crash() {
  local p w= i
  if p=$(initpid); then
    { read -r w < "$S/wrapper"; } 2>/dev/null || true
    touch "$S/stop"; kill -KILL "$p" 2>/dev/null || true    # the kernel then kills the whole pid namespace
    for i in $(seq 500); do [ -e "/proc/$p" ] || break; sleep 0.02; done
    [ -z "$w" ] || for i in $(seq 200); do [ "$(tr '\0' ' ' 2>/dev/null <"/proc/$w/cmdline" | grep -c __wrap)" = 1 ] || break; sleep 0.02; done
  fi
  rm -f "$S/pid" "$S/wrapper"; rmcg
}
down() { crash
  if mountpoint -q "$S"; then umount "$S" || umount -l "$S"; fi
  rmdir "$S" 2>/dev/null || true; }

up() {
  ! initpid >/dev/null || die "already up"
  mkdir -p "$S"
  mountpoint -q "$S" || mount -t tmpfs -o mode=755 "devbox-$NAME" "$S"   # an upper layer may not lie inside its own lower one
  mkdir -p "$S"/{upper,work,root}; rm -f "$S"/{stop,ready,pid,failed}; rmcg
  setsid bash "$0" __wrap </dev/null >>"$S/console.log" 2>&1 &
  local i
  for i in $(seq $((TIMEOUT * 20))); do
    [ ! -e "$S/failed" ] || { tail -20 "$S/console.log" >&2; rm -f "$S/failed"; die "PID 1 ended during boot (state kept in $S: run down)"; }
    if initpid >/dev/null && [ -e "$S/ready" ] &&
       case $(timeout 5 bash "$0" exec systemctl is-system-running 2>/dev/null || true) in running|degraded) true;; *) false;; esac
    then return 0; fi
    sleep 0.05
  done
  tail -20 "$S/console.log" >&2; die "not booted after ${TIMEOUT}s"
}
wrap() {          # the host-side keeper: one turn per boot, so `systemctl reboot` inside really reboots
  echo $$ > "$S/wrapper"
  local t d c x rc n
  while :; do
    while read -r t d c; do
      mkdir -p "$d/$NAME"
      if [ "$t" = v2 ] && [ "$d" = /sys/fs/cgroup ]; then for x in $(cat "$d/cgroup.controllers"); do echo "+$x" > "$d/cgroup.subtree_control" || true; done; fi
      case $c in *cpuset*) cat "$d/cpuset.cpus" > "$d/$NAME/cpuset.cpus"; cat "$d/cpuset.mems" > "$d/$NAME/cpuset.mems";; esac
    done < <(hierarchies)
    rm -f "$S/ready"; rc=0
    n=(--mount --pid --fork --uts --ipc --cgroup); [ "$NET" = host ] || n+=(--net)
    ( while read -r t d c; do echo "$BASHPID" > "$d/$NAME/cgroup.procs"; done < <(hierarchies)
      exec unshare "${n[@]}" --propagation private bash "$0" __init ) &
    wait $! || rc=$?
    rm -f "$S/pid"
    [ ! -e "$S/stop" ] || exit 0
    [ "$rc" = 129 ] || { [ -e "$S/ready" ] || touch "$S/failed"; exit 0; }   # 129 = SIGHUP = reboot(2) in a pid namespace
    rmcg
  done
}
init() {          # PID 1 in the new namespaces, still on the host's root
  local R=$S/root d h s t u m st
  read -r -a st < /proc/self/stat; echo "${st[0]} ${st[21]}" > "$S/pid"     # this /proc is still the host's: host pid, start time
  mount -t overlay overlay -o "lowerdir=/,upperdir=$S/upper,workdir=$S/work" "$R"
  mount -t proc proc "$R/proc"
  cat /proc/sys/kernel/random/uuid > "$S/boot_id"                            # each boot its own, for journalctl -b
  mount --bind "$S/boot_id" "$R/proc/sys/kernel/random/boot_id"
  mount --rbind "$R/proc/sys" "$R/proc/sys"; mount -o remount,bind,ro "$R/proc/sys"   # sysctls are the host's
  mount -t sysfs -o ro sysfs "$R/sys"
  mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$R/run"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$R/tmp"
  mount -t tmpfs -o mode=755 tmpfs "$R/dev"
  for d in null zero full random urandom tty; do : > "$R/dev/$d"; mount --bind "/dev/$d" "$R/dev/$d"; done
  mkdir "$R"/dev/{pts,shm,mqueue}
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$R/dev/pts"; ln -s pts/ptmx "$R/dev/ptmx"
  mount -t tmpfs -o mode=1777 tmpfs "$R/dev/shm"; mount -t mqueue mqueue "$R/dev/mqueue"
  ln -s /proc/self/fd "$R/dev/fd"; for d in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${d%%:*}" "$R/dev/${d#*:}"; done
  # our own sub-tree is the root of every cgroup hierarchy (cgroup namespace)
  if [ "$CG" = auto ]; then if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then CG=unified; else CG=hybrid; fi; fi
  if [ "$CG" = unified ]; then mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
  else
    mount -t tmpfs -o mode=755 tmpfs "$R/sys/fs/cgroup"
    while read -r t h s; do
      d=$R/sys/fs/cgroup/${h##*/}; mkdir -p "$d"
      case $t in v2) mount -t cgroup2 cgroup2 "$d";; *) mount -t cgroup -o "$s" cgroup "$d";; esac
    done < <(hierarchies | grep ' /sys/fs/cgroup/')
  fi
  for d in $HIDE; do
    if [ -d "$R$d" ]; then mkdir -p "$S/hidden$d"; chmod 700 "$S/hidden$d"; mount --bind "$S/hidden$d" "$R$d"; fi
  done
  for s in $SHARE; do
    IFS=: read -r h d m <<<"$s"; mkdir -p "$R$d"; mount --bind "$h" "$R$d"
    [ "$m" = rw ] || mount -o remount,bind,ro "$R$d"
  done
  [ "$NET" = host ] || ip link set lo up
  hostname "$NAME"
  if [ ! -e "$S/upper/etc/devbox" ]; then            # first boot of this disk
    rm -rf "$R"/etc/systemd/system/* "$R"/etc/rc?.d/S* "$R"/var/log/journal "$R"/home/* "$R"/var/tmp/*
    mkdir -p "$R/var/log/journal" "$R/etc/systemd/journald.conf.d" "$R/etc/tmpfiles.d"
    ln -sf /dev/null "$R/etc/tmpfiles.d/tmp.conf"
    printf '[Journal]\nStorage=persistent\nReadKMsg=no\nRateLimitIntervalSec=0\n' > "$R/etc/systemd/journald.conf.d/devbox.conf"
    tr -d - < /proc/sys/kernel/random/uuid > "$R/etc/machine-id"
    echo "$NAME" > "$R/etc/hostname"; printf '127.0.0.1 localhost %s\n::1 localhost\n' "$NAME" > "$R/etc/hosts"
    for u in $USERS; do                              # a user of that name on the host is hidden, not reused
      ! chroot "$R" id "$u" >/dev/null 2>&1 || chroot "$R" userdel -f "$u" >/dev/null
      chroot "$R" useradd -m -s /bin/bash -U "$u"
    done
    touch "$R/etc/devbox"
  fi
  mkdir -p "$R/run/systemd/system"                   # mask what makes no sense in a box
  for u in systemd-{udevd,udev-trigger,timesyncd,networkd,resolved,firstboot,pstore,modules-load,update-utmp-runlevel}.service \
           getty@.service console-getty.service kmod-static-nodes.service modprobe@.service getty.target dev-hugepages.mount \
           sys-kernel-{debug,tracing,config}.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount
  do ln -s /dev/null "$R/run/systemd/system/$u"; done
  : > "$S/ready"
  cd "$R"; mkdir -p .devbox-old; pivot_root . .devbox-old
  umount -l /.devbox-old; rmdir /.devbox-old
  exec env -i container=devbox PATH=$P LANG=C.UTF-8 setpriv --bounding-set=-mknod,-sys_module,-sys_rawio,-sys_time \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=no
}

case ${1-} in
  up) up;;
  exec) shift; [ $# -gt 0 ] || die "exec needs a command"; enter "$@";;
  crash) crash;;
  down) down;;
  status) if p=$(initpid); then echo "up, PID 1 is $p here"; else echo down; exit 3; fi;;
  log) cat "$S/console.log";;
  __wrap) wrap;;
  __init) init;;
  *) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 2;;
esac
