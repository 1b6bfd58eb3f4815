"""A complete host in a folder: registry, users with databases and servers, dispatch, supervisor, consumer."""

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from t3flow.engine.journal import Journal
from t3flow.host import http_client, slots
from t3flow.host.host import open_host
from t3flow.host.npm import packages
from t3flow.host.pairing import verification
from t3flow.host.slots import creation
from t3flow.host.slots.launcher import install_launcher
from t3flow.sandbox import guard, prepared, signing
from t3flow.sandbox.dispatch import MINT_SECONDS
from t3flow.sandbox.enter import has_own_network
from t3flow.sandbox.environment import environment_of
from t3flow.sandbox.node import link_node
from t3flow.sandbox.packages import pack_release
from t3flow.sandbox.registry import Registry
from t3flow.service.consumer import create_state_dir, open_journal
from t3flow.settings import load as settings_module
from t3flow.settings.load import Settings

PORTS, _used_ports = (10_000, 32_000), set[int]()  # below the range for outgoing connections
FOREIGN = ("T3", "npm_config", "COLUMNS", "LINES")
"""Prefixes of variables that the sandbox does not inherit. pytest-xdist sets the last two in its workers."""

READY_SECONDS, AGAIN_SECONDS = 30.0, 0.2
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
CONFIG = """\
[track]
package = "t3"
tag = "nightly"
[paths]
state_dir = "{top}/state"
freeze_file = "{top}/etc/t3-autoupdate.freeze"
last_good_file = "{top}/state/last-good"
backup_dir = "{top}/backups"
versions_dir = "{top}/opt/t3"
launcher = "{top}/bin/t3"
scratch_dir = "{top}/scratch"
user_map = "{top}/etc/user-map"
serve_env_dir = "{top}/etc/t3-serve"
[serve]
backend = "process"
base_dir = "{top}/home/{{user}}/.t3"
[dispatch]
url = "http://127.0.0.1:{dispatch_port}"
verify_timeout_s = 6
log = "{top}/log/dispatch.log"
[gate]
port = {gate_port}
start_timeout_s = 15
[deferral]
quiet_seconds = {quiet_seconds}
window = ""
max_check_interval_s = 5
[schedule]
bump = "0 4 1 1 *"
retry_s = 0
[queue]
url = "{queue_url}"
[npm]
retry_for_s = 5
timeout_s = 120
"""


def free_port() -> int:
    """Return a free TCP port that was not returned before and is outside the range for outgoing connections."""
    while True:
        port = random.randrange(*PORTS)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("0.0.0.0", port))
            if port not in _used_ports:
                _used_ports.add(port)
                return port


class Sandbox:
    """A complete host in a folder. `close` ends all processes that it started."""

    def __init__(
        self, top: Path, users: list[str], *, quiet_seconds: float = 1, queue_url: str = "", extra: str = ""
    ) -> None:
        self.top = top
        self.users = users
        self.ports = {user: free_port() for user in users}
        self.dispatch_port = free_port()
        self.address = "0.0.0.0" if has_own_network() else "127.0.0.1"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.prefix: list[str] = []  # put before the consumer's command
        self.requests: Path | None = None  # a file to which the supervisor appends each request
        self.ready_seconds = READY_SECONDS
        self.mint_seconds = MINT_SECONDS
        self.config = top / "config.toml"
        for folder in ("state", "etc/t3-serve", "backups", "opt/t3", "bin", "scratch", "log", "registry", "home"):
            (top / folder).mkdir(parents=True, exist_ok=True)
        os.chmod(top / "state", 0o711)
        text = CONFIG.format(
            top=top,
            dispatch_port=self.dispatch_port,
            gate_port=free_port(),
            quiet_seconds=quiet_seconds,
            queue_url=queue_url or f"sqlite://{top}/state/queue.db",
        )
        self.config.write_text(text + extra)
        (top / "etc" / "user-map").write_text("".join(f"{user}@example.test={user}\n" for user in users))
        for user in users:
            (top / "etc" / "t3-serve" / f"{user}.env").write_text(f"T3_PORT={self.ports[user]}\n")
            self.base_dir(user).mkdir(parents=True)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
            "HOME": str(top / "home"),
            "T3FLOW_CONFIG": str(self.config),
            "PATH": f"{link_node(top / 'tools')}:{os.environ['PATH']}",
        }

    @property
    def settings(self) -> Settings:
        """Return the settings that the consumer reads."""
        return settings_module.load(self.config, {})

    @property
    def journal(self) -> Journal:
        """Open the journal."""
        return open_journal(self.settings)

    def base_dir(self, user: str) -> Path:
        """Return the base dir of a user."""
        return self.top / "home" / user / ".t3"

    def database(self, user: str) -> Path:
        """Return the path of a user's database."""
        return self.base_dir(user) / "userdata" / "state.sqlite"

    # Setting up -----------------------------------------------------------------------------------------------------

    def start(
        self, version: str, databases: dict[str, Path] | None = None, behavior: dict[str, Any] | None = None
    ) -> None:
        """Start everything but the consumer, with all users on a version and with copies of these databases."""
        self.copy_databases(databases or {})
        self.start_registry()
        self.publish(version, behavior)
        self.install(version)
        self.start_servers()

    def copy_databases(self, databases: dict[str, Path]) -> None:
        """Copy databases into the homes of users."""
        for user, source in databases.items():
            self.database(user).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, self.database(user))

    def start_servers(self) -> None:
        """Start the supervisor, the dispatch and all servers, and wait until all users can pair."""
        self.start_supervisor()
        self.start_dispatch()
        for user in self.users:
            self.supervise("start", user)
        for user in self.users:
            self.await_pairing(user)

    def start_registry(self) -> None:
        """Start the registry and point npm at it."""
        self.registry_port = free_port()
        self._python("registry_server", "--port", str(self.registry_port), "--folder", str(self.top / "registry"))
        self.environment["npm_config_registry"] = f"http://127.0.0.1:{self.registry_port}/"
        self.until(lambda: self._listens(self.registry_port), "the registry listens")

    def enable_signatures(self) -> None:
        """Make the registry sign, and the sandbox's npm trust its keys."""
        registry = Registry(self.top / "registry")
        registry.enable_signatures()
        signing.trust(self.top / "tools" / "npm", registry.keys.parent, self.environment["npm_config_registry"])

    def publish(
        self, version: str, behavior: dict[str, Any] | None = None, *, tag: str | None = "nightly", **options: Any
    ) -> None:
        """Publish a build of the stand-in with this behavior: all its packages, the launcher last."""
        registry = Registry(self.top / "registry")
        parts = pack_release(version, self.top / "registry" / "packed", behavior, **options)
        for part in parts:
            registry.publish(version, part, tag=tag if part is parts[-1] else None)

    def install(self, version: str) -> None:
        """Assign a version to all users, as on a host on which t3flow has accepted it."""
        settings = self.settings
        self.install_slot(version)
        for user in self.users:
            slots.assign(settings.paths.versions_dir, user, version)
        slots.set_default(settings.paths.versions_dir, version)
        slots.write_last_good(settings.paths.last_good_file, version)
        install_launcher(settings.paths.launcher, settings.paths.versions_dir, sandbox=True)

    def install_slot(self, version: str) -> None:
        """Create the slot of a version without assigning it."""
        settings = self.settings
        create_state_dir(settings.paths.state_dir)
        host = open_host(settings, open_journal(settings, create=True))
        versions_dir = settings.paths.versions_dir

        def install() -> None:
            staging = self.top / "scratch" / "first"
            staging.mkdir()
            with environment_of(self.environment):
                manifest = {"origin": packages.install(host, version, staging)}
                creation.create_slot(versions_dir, version, staging / "prefix", packages.node_path(), manifest)
            shutil.rmtree(staging)

        prepared.make_slot(versions_dir, version, Registry(self.top / "registry"), self.environment, install)

    def assign(self, user: str, version: str) -> None:
        """Assign a version to a user, as t3flow does after the stop of the server."""
        slots.assign(self.settings.paths.versions_dir, user, version)

    def start_supervisor(self) -> None:
        """Start the supervisor of the users' servers."""
        self._python(
            "supervisor",
            *("--socket", str(self.top / "etc" / "t3-serve" / "supervisor.sock"), "--host", self.address),
            *("--serve-env-dir", str(self.top / "etc" / "t3-serve"), "--launcher", str(self.top / "bin" / "t3")),
            *("--base-dir", str(self.top / "home" / "{user}" / ".t3"), "--log-dir", str(self.top / "log")),
            *(("--requests", str(self.requests)) if self.requests else ()),
        )
        self.until((self.top / "etc" / "t3-serve" / "supervisor.sock").exists, "the supervisor answers")

    def start_dispatch(self) -> None:
        """Start the dispatch."""
        self._python(
            "dispatch",
            *("--port", str(self.dispatch_port), "--user-map", str(self.top / "etc" / "user-map")),
            *("--serve-env-dir", str(self.top / "etc" / "t3-serve"), "--launcher", str(self.top / "bin" / "t3")),
            *("--base-dir", str(self.top / "home" / "{user}" / ".t3"), "--log", str(self.top / "log" / "dispatch.log")),
            *("--mint-timeout-seconds", str(self.mint_seconds)),
        )
        self.until(lambda: self._listens(self.dispatch_port), "the dispatch listens")

    def start_consumer(self) -> subprocess.Popen[bytes]:
        """Start the consumer and wait until it is ready."""
        log = self.top / "log" / "consumer.log"
        mark = log.stat().st_size if log.exists() else 0
        child = self._spawn("consumer", [*self.prefix, sys.executable, "-m", "t3flow", "consumer"])
        self.until(lambda: "is ready" in _from(log, mark) or child.poll() is not None, "the consumer is ready")
        return child

    def _python(self, name: str, *arguments: str) -> None:
        self._spawn(name, [sys.executable, "-m", f"t3flow.sandbox.{name}", *arguments])

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.top / "log" / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*guard.ending_with_this_process(), *command],
                env=self.environment,
                cwd=self.top,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.processes[name]

    # Acting ---------------------------------------------------------------------------------------------------------

    def t3flow(self, *arguments: str, timeout_seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a t3flow command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "t3flow", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    def document(self, *arguments: str, timeout_seconds: float = 120) -> Any:
        """Return the JSON document that a command prints."""
        finished = self.t3flow(*arguments, "--json", timeout_seconds=timeout_seconds)
        try:
            return json.loads(finished.stdout)
        except ValueError:
            raise AssertionError(f"{arguments} printed {finished.stdout!r} and {finished.stderr!r}") from None

    def has_ended(self, run: str) -> bool:
        """Return whether a run has ended, as the journal has it."""
        return self.journal.run(run).status != "running"

    def supervise(self, do: str, user: str = "") -> dict[str, Any]:
        """Send a request to the supervisor, in place of systemctl, and return the response."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(self.ready_seconds)
            connection.connect(str(self.top / "etc" / "t3-serve" / "supervisor.sock"))
            connection.sendall(json.dumps({"do": do, "user": user}).encode() + b"\n")
            with connection.makefile() as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
                return answer

    def control(self, user: str, path: str, **body: Any) -> dict[str, Any]:
        """Make a user's stand-in server act as if the user worked with it: `turn/start`, `turn/end`, `terminal`."""
        url = f"http://127.0.0.1:{self.ports[user]}/__standin/{path}"
        answer = http_client.request(
            url, method="POST", body=json.dumps(body).encode(), timeout_seconds=self.ready_seconds
        )
        found = answer.json_object()
        if answer.status != 200 or found is None:
            raise AssertionError(f"{url} answered {answer.status}: {answer.body[:200]!r}")
        return found

    def pairs(self, user: str, tries: int = 3) -> bool:
        """Return whether the user can pair through the dispatch and gets a valid session. Retries, because t3's mint does not wait for a lock."""
        from t3flow.host.pairing import probe as pairing_probe

        for _ in range(tries):
            with suppress(pairing_probe.NotPaired):
                pairing_probe.pair_once(open_host(self.settings, self.journal), user)
                return True
            time.sleep(AGAIN_SECONDS)
        return False

    def await_pairing(self, user: str) -> None:
        """Wait until a user whose server was started can pair."""
        verification.verify(open_host(self.settings, self.journal), user, self.assigned(user), self.ready_seconds)

    def level(self, user: str) -> int:
        """Return the schema level of a user's database."""
        with closing(sqlite3.connect(self.database(user))) as connection:
            level: int = connection.execute("select max(migration_id) from effect_sql_migrations").fetchone()[0]
            return level

    def assigned(self, user: str) -> str | None:
        """Return the version that is assigned to a user."""
        return slots.assigned(self.settings.paths.versions_dir, user)

    def until(self, holds: Any, what: str, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until a condition holds. Raise AssertionError after the timeout, or if a process of the sandbox has failed."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            began = time.monotonic()
            if holds():
                return
            # A check that takes long, as a command does, is followed by a longer pause.
            pause = min(max(SHORTEST_PAUSE_SECONDS, 2 * (time.monotonic() - began)), LONGEST_PAUSE_SECONDS)
            for name, child in self.processes.items():
                if child.poll() not in (None, 0) and name != "consumer":
                    raise AssertionError(
                        f"{name} ended with {child.returncode}: {_from(self.top / 'log' / f'{name}.log', 0)[-800:]}"
                    )
            if time.monotonic() > deadline:
                raise AssertionError(f"not true within {timeout_seconds:g} s: {what}")
            time.sleep(pause)

    def _listens(self, port: int) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    # Ending ---------------------------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """Kill one of the sandbox's processes with SIGKILL."""
        child = self.processes.pop(name)
        child.kill()
        child.wait()

    def end(self, name: str) -> int:
        """End one of the sandbox's processes like systemd, and return its exit code."""
        child = self.processes.pop(name)
        child.terminate()
        try:
            return child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def close(self) -> None:
        """End all processes that the sandbox started."""
        for name in ("consumer", "dispatch", "registry_server", "supervisor"):
            if name in self.processes:
                group = self.processes[name].pid
                self.end(name)
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)


def _from(path: Path, position: int) -> str:
    with suppress(FileNotFoundError):
        return path.read_bytes()[position:].decode(errors="replace")
    return ""
