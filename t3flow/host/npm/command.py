"""Run the npm client, and the errors that its results mean."""

import os
import re
import shutil
from collections.abc import Mapping

from t3flow import T3flowError
from t3flow.host.accounts import Account
from t3flow.host.children import Finished, TookTooLong
from t3flow.host.host import Host
from t3flow.host.npm import settings as npm_settings

CANNOT_START = (126, 127)
NOT_IN_REGISTRY = {"E404", "ETARGET", "ENOVERSIONS"}
"""npm's codes for a package, a version or a tarball that the registry does not have."""
UNREACHABLE = re.compile(
    r"E(CONN\w+|NOTFOUND|AI_AGAIN|TIMEDOUT|SOCKETTIMEOUT|HOSTUNREACH|NETUNREACH|PIPE|JSONPARSE|RR_\w+|50\d|429|INVALIDRESPONSE)"
    r"|ERR_SOCKET|network|socket hang up|Invalid response body|Unexpected token|in JSON|fetch failed|failed to download|aborted",
    re.IGNORECASE,
)


class RegistryUnreachable(T3flowError):
    """The registry does not answer, or does not answer as a registry."""


class PackageError(T3flowError):
    """The registry answers, but the package, tag or version is not usable."""


class IncompleteRelease(T3flowError):
    """A part of the version is not in the registry yet."""


class ProgramMissing(PackageError):
    """npm or Node is missing, so that t3flow can neither query nor install."""


def run_npm(
    host: Host,
    words: list[str],
    *,
    timeout_seconds: float,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run npm with the settings of this process's environment and npmrc files.

    Raises RegistryUnreachable, ProgramMissing, ChildError, Interrupted.
    """
    settings = {name: value for name, value in os.environ.items() if name.lower().startswith(npm_settings.PREFIX)}
    return run_with(host, words, timeout_seconds, account, {**settings, **(environment or {})})


def run_with(
    host: Host, words: list[str], timeout_seconds: float, account: Account | None, settings: Mapping[str, str]
) -> Finished:
    """Run npm with these settings in its environment. Raises as `run_npm`."""
    require_programs(host)
    try:
        return host.children.run(
            [host.settings.npm.command, *words],
            account=account,
            environment={"HOME": os.environ.get("HOME", "/"), **npm_settings.QUIET, **settings},
            timeout_seconds=timeout_seconds,
        )
    except TookTooLong as error:
        raise RegistryUnreachable(f"the registry does not answer in time: {error}") from error


def require_programs(host: Host) -> None:
    """Raise ProgramMissing if npm or Node is not on PATH, because npm's output would then not come from the registry."""
    command = host.settings.npm.command
    if shutil.which(command) is None:
        raise ProgramMissing(
            f"{command} is not on PATH: install npm, or set npm.command, then: systemctl restart t3flow"
        )
    if shutil.which("node") is None:
        raise ProgramMissing("node is not on PATH: install Node.js 24 or newer, then: systemctl restart t3flow")
