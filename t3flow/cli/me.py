"""`t3flow me`: what a user sees of themselves, and may wish for, without root."""

import json
import os
import pwd
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from t3flow import T3flowError
from t3flow.cli.base import Commands, NoConsumer, UsageError, as_json, settings
from t3flow.cli.output import dump, tell, wrapped
from t3flow.settings.load import DEFAULT_FILE, FILE_VARIABLE, Settings
from t3flow.state.documents import Me
from t3flow.state.times import duration

LABEL = 12
ANSWER_SECONDS = 8.0
SANDBOX_USER = "T3FLOW_ME"
"""Environment: whom `me` means in the sandbox, where all users are one account."""


class Declined(T3flowError):
    """The consumer did not grant a wish."""

    exit_code = 1


@click.group(cls=Commands, invoke_without_command=True)
@as_json
@click.pass_context
def me(context: click.Context, as_json: bool) -> None:
    """Show what t3flow has for you, without root. Example: t3flow me

    Shows which version your server runs, which move waits and for what, when it is checked next, and what you wished for.
    """
    if context.invoked_subcommand is not None:
        return
    from t3flow.state.me import lines

    read = _settings()
    found = _document(read, _user(read))
    if as_json:
        dump(found)
    else:
        for label, text in lines(found):
            click.echo(wrapped(text, " " * LABEL, f"{label:<{LABEL}}"))
    if (silent := _silence(read)) and not as_json:
        tell(f"This is as of then: {silent}")


@me.command()
def now() -> None:
    """Be moved at once, although processes run in your server. Example: t3flow me now

    Outside the window too. Never during a live or queued turn, within deferral.quiet_seconds after one, or while tracking is frozen: then you
    are moved as soon as possible. Processes that run in your server, such as a terminal, end with it. t3flow me later --cancel withdraws it.
    """
    _wish({"wish": "now"})


@me.command()
@click.option(
    "--until",
    metavar="DATE",
    help="As 2026-12-24 (its first moment), or with a time. Default: deferral.later_days ahead.",
)
@click.option("--cancel", is_flag=True, help="Withdraw what you wished for.")
def later(until: str | None, cancel: bool) -> None:
    """Not be moved before a date. Example: t3flow me later --until 2026-12-24

    Bumps leave you as you are too, although you are idle. DATE is at most deferral.later_days ahead. An operator may still move you by name.
    """
    from datetime import datetime

    from t3flow.settings.dates import future_moment
    from t3flow.settings.schedule import zone

    read = _settings()
    if cancel:
        _wish({"wish": "cancel"})
        return
    days = 0.0 if until else _document(read, _user(read))["later_days"]
    at = future_moment(read, until) if until else time.time() + days * 86400.0
    _wish({"wish": "later", "until": datetime.fromtimestamp(at, zone(read)).isoformat(timespec="seconds")})


def _settings() -> Settings:
    """Return the settings; the defaults where only root may read the file, as with a password in it. Raises SettingsError."""
    context = click.get_current_context().find_root()
    path = Path(context.params.get("config") or os.environ.get(FILE_VARIABLE) or DEFAULT_FILE)
    if path.exists() and not os.access(path, os.R_OK):
        return Settings()
    return settings()


def _user(read: Settings) -> str:
    """Return the calling user. Raises UsageError for root and for unknown accounts."""
    if read.serve.backend == "process" and (name := os.environ.get(SANDBOX_USER, "")):
        return name
    if os.getuid() == 0:
        raise UsageError("root has no t3 server of its own; run this as the user concerned, or see t3flow status")
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise UsageError(f"uid {os.getuid()} has no account on this host") from None


class NotSeenYet(T3flowError):
    """The consumer has not written what a user may know yet."""


def _require_folder(read: Settings, user: str) -> Path:
    """Return the folder of a user's files. Raises NoConsumer, UsageError."""
    from t3flow.host import user_files

    folder = user_files.folder_of(read.paths.state_dir, user)
    if not folder.is_dir():
        if silent := _silence(read):
            raise NoConsumer(silent)
        raise UsageError(
            f"{user} is not a user of t3 on this host; ask an operator for a line in {read.paths.user_map}"
        )
    return folder


def _document(read: Settings, user: str) -> Me:
    """Return what the consumer wrote for a user. Raises T3flowError."""
    from t3flow.host.user_files import ME

    path = _require_folder(read, user) / ME
    try:
        found: Me = json.loads(path.read_text())
    except FileNotFoundError:
        raise NotSeenYet("the consumer has only just started; run this again in a few seconds") from None
    except (OSError, ValueError) as error:
        raise T3flowError(f"{path} cannot be read ({error}); ask an operator to run: t3flow doctor") from None
    return found


def _silence(read: Settings) -> str:
    """Return that no consumer is alive; "" if one is."""
    from t3flow.host.user_files import silent_seconds

    silent = silent_seconds(read.paths.state_dir)
    if silent is None:
        return ""
    seen = "" if silent == float("inf") else f" (last seen {duration(silent)} ago)"
    return f"no consumer is running{seen}, so that nothing is moved; ask an operator to run: systemctl start t3flow"


def _wish(wish: dict[str, Any]) -> None:
    """Write a wish and print the consumer's answer. Raises Declined, NoConsumer."""
    from t3flow.host.user_files import WISH

    read = _settings()
    user = _user(read)
    folder = _require_folder(read, user)
    if silent := _silence(read):
        raise NoConsumer(silent)
    wish_id = secrets.token_hex(16)
    text = json.dumps({"schema": 1, "id": wish_id, **wish}).encode()
    _overwrite(folder / WISH, text)
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        answer = None
        with suppress(NotSeenYet):
            answer = _document(read, user)["answer"]
        if answer is not None and answer["id"] == wish_id:
            if not answer["ok"]:
                raise Declined(answer["text"])
            tell(f"{answer['text'][:1].upper()}{answer['text'][1:]}")
            return
        time.sleep(0.1)
    raise NoConsumer("the consumer has not answered yet; it reads your wish when it can: see t3flow me")


def _overwrite(path: Path, text: bytes) -> None:
    """Overwrite a file that exists. Raises T3flowError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise T3flowError(
            f"{path} cannot be written ({error.strerror}); ask an operator to run: t3flow doctor"
        ) from None
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, text)
    finally:
        os.close(descriptor)
