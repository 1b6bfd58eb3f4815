"""Poll the processes of the box, and record each once: account, command, control group.

usage: eyes.py FILE
"""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

EVERY_SECONDS = 0.01
seen: set[tuple[str, int, str]] = set()

with Path(sys.argv[1]).open("a") as notes:
    while True:
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
                uid = entry.stat().st_uid
                if (key := (entry.name, uid, words[0] + words[-1])) in seen:
                    continue
                seen.add(key)
                groups = (entry / "cgroup").read_text()
                notes.write(json.dumps({"uid": uid, "words": words, "groups": groups}) + "\n")
                notes.flush()
        time.sleep(EVERY_SECONDS)
