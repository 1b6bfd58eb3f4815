"""Programs for a box or a cell in it: they report what an install script sees, or exceed limits."""

WHAT_IT_SEES = """
const fs = require('fs'), found = {uid: process.getuid(), groups: process.getgroups(), environment: JSON.stringify(process.env), read: []}
for (const path of ['/root/.npmrc', '/var/lib/t3flow/queue.key', '/home/ada/.t3/userdata/state.sqlite', '/etc/shadow', '/proc/1/environ'])
  try { fs.readFileSync(path); found.read.push(path) } catch {}
fs.writeFileSync('seen.json', JSON.stringify(found))
"""

LIMITS = """
import os, sys, time
from pathlib import Path
from t3flow.host.cells import cells
from t3flow.host.host import open_host
from t3flow.service.consumer import open_journal
from t3flow.settings.load import load
read = load(None, {})
host = open_host(read, open_journal(read))
given = cells.isolation(host)
assert given.is_available and not given.missing, given
words = cells.cell_command(host, given, own_network=True)
finished = host.children.run([*words, *cells.python_command("t3flow.host.cells.build")[:4], "-c", sys.argv[1]], environment=cells.environment(), timeout_seconds=60)
print(finished.code, finished.stdout.decode()[-300:], finished.stderr.decode()[-300:])
"""

TAKES_MEMORY = """
import os, time
for number in range(6):
    if os.fork() == 0:
        taken = bytearray(600 * 1024**2)
        time.sleep(2)
        os._exit(0)
codes = [os.wait()[1] for _ in range(6)]
print("killed", sum(code == 9 for code in codes))
"""

TAKES_PROCESSES = """
import os, signal
pids = []
try:
    for number in range(800):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        pids.append(pid)
except OSError as error:
    print("refused after", len(pids), error)
for pid in pids:
    os.kill(pid, 9)
"""

BURNS = """
import os, time
for number in range(os.cpu_count() - 1):
    if os.fork() == 0:
        break
began, used = time.monotonic(), time.process_time()
while time.monotonic() - began < 2:
    pass
print("cores", os.cpu_count(), "of mine", round(time.process_time() - used, 1))
"""

JOINS_UNIT = """
group=$(systemctl show "t3-serve@$1" --value --property=ControlGroup)
for top in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do
  if [ -e "$top$group/cgroup.procs" ]; then echo $$ > "$top$group/cgroup.procs"; fi
done
"""
"""A shell script that continues below the server $1, like a program that an agent runs."""

STOPS = """
import sys
from pathlib import Path
from t3flow.host.services import systemd
from t3flow.host.children import Children
systemd.STOP_SECONDS = 1.0
systemd.Systemd(Children(Path("/run/stops.lock")), "{user}.service").stop(sys.argv[1])
"""
