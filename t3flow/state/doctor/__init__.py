"""`t3flow doctor`: the host's prerequisites and the invariants, looked at from outside. Nothing here changes anything.

Each check is a function of the host that gives its findings; one that cannot be made is a finding itself.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from t3flow import T3flowError
from t3flow.host.children import Children
from t3flow.host.host import COMMANDS_LOCK, Host, services_of
from t3flow.state.doctor import history, places, programs, queues, users, versions
from t3flow.state.doctor.finding import Finding

__all__ = ["CHECKS", "Check", "Finding", "examine"]

Check = Callable[[Host], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "npm": programs.npm_runs,
    "node": programs.node_is_the_gated_one,
    "systemd": programs.systemd_answers,
    "cells": programs.cells_can_be_had,
    "dispatch": programs.dispatch_answers,
    "dispatch log": programs.dispatch_log_is_read,
    "clock": programs.clock_is_right,
    "schedule": programs.schedule_has_a_clock,
    "queue": queues.queue_is_private,
    "accounts": users.accounts_are_there,
    "modes": places.modes_and_owners,
    "disk": places.disk_has_space,
    "leftovers": places.nothing_is_left_over,
    "launcher": versions.launcher_is_ours,
    "default": versions.default_is_last_good,
    "slots": versions.slots_are_whole,
    "links": versions.links_lead_to_slots,
    "servers": users.servers_run_what_is_assigned,
    "root": users.nothing_runs_as_root,
    "schema": users.versions_know_their_databases,
    "pairing": users.everybody_pairs,
    "backups": history.backups_are_there,
    "kept databases": history.kept_databases_are_there,
    "old tracker": history.old_tracker_is_off,
    "consumer": history.consumer_runs,
    "freeze": history.tracking_is_not_held,
    "deferrals": history.deferrals_are_pending,
    "lock": history.lock_has_a_run,
}


def examine(host: Host, names: list[str] | None = None) -> list[Finding]:
    """What the checks of these names, or all, find; in their order.

    What they run is under the lock of commands: a check that looks for children of a consumer must not find those of the doctor.
    """
    children = Children(host.settings.paths.state_dir / COMMANDS_LOCK)
    host = replace(host, children=children, services=services_of(host.settings, children))

    def made(name: str) -> list[Finding]:
        try:
            return [Finding(name, what, mend) for _, what, mend in CHECKS[name](host)]
        except (T3flowError, OSError, ValueError) as error:
            return [Finding(name, f"cannot be looked at: {error}", "mend that, then run doctor again")]

    with ThreadPoolExecutor(4) as pool:
        found = [finding for each in pool.map(made, names or list(CHECKS)) for finding in each]
    # One cause may stop several checks, or be met with each user: it is said once.
    return list({each.what: each for each in reversed(found)}.values())[::-1]
