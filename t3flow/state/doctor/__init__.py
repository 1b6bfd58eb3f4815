"""`t3flow doctor`: check the prerequisites of the host and the invariants of t3flow. Read-only.

A check is a function that yields the findings of a host. A check that fails with an error is itself a finding.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from t3flow import T3flowError
from t3flow.host.children import Children
from t3flow.host.host import COMMANDS_LOCK, Host, services_of
from t3flow.state.doctor import fleets, history, messages, places, programs, queues, users, versions
from t3flow.state.doctor.finding import Finding
from t3flow.state.doctor.surveys import Examined

__all__ = ["CHECKS", "Check", "Finding", "examine"]

Check = Callable[[Host], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "npm": programs.npm_runs,
    "node": programs.node_is_unchanged,
    "systemd": programs.systemd_answers,
    "cells": programs.cells_are_available,
    "dispatch": programs.dispatch_answers,
    "dispatch log": programs.dispatch_log_is_readable,
    "clock": programs.clock_is_right,
    "schedule": programs.time_zone_is_known,
    "queue": queues.queue_is_private,
    "accounts": users.accounts_exist,
    "modes": places.modes_and_owners,
    "disk": places.disk_has_space,
    "leftovers": places.no_leftovers,
    "launcher": versions.launcher_is_intact,
    "default": versions.default_is_last_good,
    "slots": versions.slots_are_whole,
    "links": versions.links_lead_to_slots,
    "servers": users.servers_run_assigned_versions,
    "root": users.nothing_runs_as_root,
    "schema": users.versions_know_their_databases,
    "pairing": users.users_can_pair,
    "backups": history.snapshots_exist,
    "replaced databases": history.replaced_databases_exist,
    "shell tracker": history.shell_tracker_is_off,
    "consumer": history.consumer_runs,
    "hourly verify": history.verify_is_not_overdue,
    "freeze": history.tracking_is_not_frozen,
    "deferrals": history.deferrals_are_pending,
    "lease": history.lease_has_a_run,
    "messages": messages.messages_arrive,
    "fleet": fleets.fleet_works,
}


def examine(host: Host, names: list[str] | None = None) -> list[Finding]:
    """Run the named checks, or all of them, and return their findings in the order of the checks.

    Child processes are registered under the lock of commands: else the check for leftover children of a consumer would find the doctor's own.
    """
    children = Children(host.settings.paths.state_dir / COMMANDS_LOCK)
    host = Examined(host.settings, host.journal, children, services_of(host.settings, children))

    def findings(name: str) -> list[Finding]:
        try:
            return [Finding(name, problem, remedy) for _, problem, remedy in CHECKS[name](host)]
        except (T3flowError, OSError, ValueError) as error:
            return [Finding(name, f"the check failed: {error}", "fix this, then run t3flow doctor again")]

    with ThreadPoolExecutor(4) as pool:
        found = [finding for each in pool.map(findings, names or list(CHECKS)) for finding in each]
    # One cause can fail several checks, or one check for several users: report it once.
    return list({each.problem: each for each in reversed(found)}.values())[::-1]
