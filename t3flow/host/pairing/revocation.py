"""Revocation of the sessions that t3flow's probes opened, so that they do not pile up in a user's list of clients.

A probe records its session at once, and the consumer revokes it later, when no run has the host: no restart waits for it, and a kill between the two
loses nothing.
"""

from collections.abc import Sequence

from t3flow import T3flowError
from t3flow.engine.log import logger
from t3flow.host import slots
from t3flow.host.children import ChildError
from t3flow.host.host import Host
from t3flow.host.pairing import opened_sessions, probe
from t3flow.t3 import processes, sessions

COMMAND_SECONDS = 30.0
MOST_AT_ONCE = 3
"""How many sessions of a user are revoked in one go: each costs a start of t3, about a second of a core and 300 MB."""
_offers: dict[str, bool] = {}
"""Path of a slot → whether its t3 can revoke sessions. The program of a slot does not change."""


def revoke_sessions(host: Host, user: str) -> bool:
    """Revoke recorded sessions of a user, as the user, with the t3 that the server runs. Return whether all went well; what fails stays recorded.

    Any command of t3 migrates the database first, so nothing is revoked while the server runs another version than the assigned one. The sessions of
    a build that cannot revoke are forgotten. Idempotent: to revoke a session twice is a success for t3.
    """
    if not (ids := opened_sessions.opened(host.journal).get(user)):
        return True
    try:
        server = host.services.state(user)
        version = slots.effective(host.settings.paths.versions_dir, user)
        if server.main_pid is None or version is None:
            return False
        if probe.running_version_of(host, user, server.main_pid) != version:
            return False
        if not _can_revoke(host, user, version):
            opened_sessions.forget(host.journal, user, ids)
            return True
        for session in ids[:MOST_AT_ONCE]:
            code, _ = _run(host, user, version, sessions.revocation(str(host.base_dir(user)), session))
            if code != 0:
                return False
            opened_sessions.forget(host.journal, user, [session])
    except (T3flowError, OSError) as error:
        logger.debug("the sessions that probes of {} opened stay for now: {}", user, error)
        return False
    return True


def _can_revoke(host: Host, user: str, version: str) -> bool:
    """Return whether a version has the command. Early builds take an unknown command for a folder and start a server, so their help is asked."""
    slot = str(slots.slot_path(host.settings.paths.versions_dir, version))
    if slot not in _offers:
        code, output = _run(host, user, version, sessions.HELP)
        if code not in (0, 1):  # 1: an unknown option; any other says nothing about the build
            raise ChildError(f"t3 {' '.join(sessions.HELP)} ended with {code}")
        _offers[slot] = code == 0 and sessions.offers_revocation(output)
    return _offers[slot]


def _run(host: Host, user: str, version: str, words: Sequence[str]) -> tuple[int, bytes]:
    """Run a command of a slot's t3 as a user. Return its exit status and output. Raise ChildError, AccountError."""
    slot, account = slots.slot_path(host.settings.paths.versions_dir, version), host.account(user)
    finished = host.children.run(
        [slot / ".node", slot / processes.PROGRAM, *words],
        account=account,
        environment={"HOME": str(account.home), "USER": user, "LOGNAME": user, **sessions.ENVIRONMENT},
        timeout_seconds=COMMAND_SECONDS,
    )
    return finished.code, finished.stdout
