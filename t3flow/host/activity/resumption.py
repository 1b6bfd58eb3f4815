"""Resumption of a unit that a consumer had suspended when it died. The journal records which unit, and the next consumer resumes it."""

from t3flow import T3flowError
from t3flow.engine.journal import Journal
from t3flow.engine.log import logger
from t3flow.host.host import Host
from t3flow.host.processes import suspension
from t3flow.host.records import facts

SUSPENDED = "held"
"""Fact: the user whose unit is being suspended, written before the first SIGSTOP."""
FORMER_SUSPENDED = "paused"
"""Fact: the pid of the single process that an older t3flow suspended."""


def note_suspended(journal: Journal, user: str) -> None:
    """Record whose unit is about to be suspended. Not synced: no process survives a power cut."""
    facts.write(journal, SUSPENDED, user, synced=False)


def resume_suspended(host: Host) -> None:
    """Resume the unit that a previous consumer may have left suspended. Called when a consumer starts. Idempotent."""
    user = facts.read(host.journal, SUSPENDED)
    if isinstance(user, str):
        try:
            if resumed := suspension.resume_all(host.services.pids(user)):
                logger.info(
                    "resumed {} processes of the unit of {} that a previous consumer had suspended", len(resumed), user
                )
            facts.write(host.journal, SUSPENDED, None)
        except T3flowError as error:  # the next start tries again
            logger.error("cannot resume the server of {}, which may be suspended: {}; run t3flow doctor", user, error)
    pid = facts.read(host.journal, FORMER_SUSPENDED)
    if isinstance(pid, int):
        for entry in host.user_map().users:
            if host.services.state(entry.name).main_pid == pid:
                suspension.resume_all([pid])
        facts.write(host.journal, FORMER_SUSPENDED, None)
