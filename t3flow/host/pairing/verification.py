"""Verification after a start: wait until a user's server runs a version and pairs."""

import time
from collections.abc import Callable

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from t3flow.engine.step import pause
from t3flow.host import slots
from t3flow.host.host import Host, HostError
from t3flow.host.pairing.probe import (
    FIRST_PROBE_SECONDS,
    LONGEST_PROBE_SECONDS,
    START_SLACK_SECONDS,
    Misconfigured,
    NotPaired,
    NotReady,
    PortTaken,
    check_running,
    pair_once,
)
from t3flow.host.processes import proc
from t3flow.settings.user_map import UserMapError


def verify(
    host: Host, user: str, version: str | None, timeout_seconds: float, start_seconds: float | None = None
) -> float:
    """Wait until a user's server runs a version (None: any) and a pairing succeeds. Return the time of the success (epoch seconds).

    `timeout_seconds` starts when the server answers. A server that is still starting has until `start_seconds`, by default the gate's limit.
    Raise NotPaired with the last reason at the timeout; PortTaken instead if the port was taken at any time, since the server may have given up.
    """
    taken: list[PortTaken] = []

    def translate(probe: Callable[[], None]) -> None:
        try:
            probe()
        except PortTaken as error:
            taken.append(error)
            raise
        except (HostError, UserMapError) as error:  # a file that is being rewritten is empty for a moment
            raise Misconfigured(str(error)) from error

    try:
        if version is not None:
            check = lambda seconds: translate(lambda: check_running(host, user, version, seconds))  # noqa: E731
            _await_start(host, user, check, timeout_seconds, start_seconds)
        slots.remove_starting(host.settings.paths.versions_dir, user)
        deadline = time.monotonic() + timeout_seconds
        _retry_until(lambda seconds: translate(lambda: pair_once(host, user)), deadline, longest_wait_seconds=2.0)
    except NotPaired as error:
        if taken:
            raise taken[-1] from error
        raise
    return time.time()


def _await_start(
    host: Host, user: str, check: Callable[[float], None], timeout_seconds: float, start_seconds: float | None
) -> None:
    """Wait for a server's first answer; beyond the timeout only if the process is as old as that. A server that crashes at each start has failed."""
    began = time.monotonic()
    limit_seconds = host.settings.gate.start_timeout_s if start_seconds is None else start_seconds
    try:
        _retry_until(check, began + timeout_seconds, longest_wait_seconds=0.1)
    except NotReady:
        pid = host.services.state(user).main_pid
        age = proc.age_seconds(pid) if pid is not None else None
        if age is None or age < timeout_seconds - START_SLACK_SECONDS:
            raise
        _retry_until(check, max(began + limit_seconds, time.monotonic()), longest_wait_seconds=0.1)


def _retry_until(probe: Callable[[float], None], deadline: float, longest_wait_seconds: float) -> None:
    """Retry a probe with backoff until it does not raise NotPaired. Each attempt has a longer timeout than the last."""
    for attempt in Retrying(
        stop=stop_after_delay(max(0.0, deadline - time.monotonic())),
        wait=wait_exponential(multiplier=0.03, exp_base=1.5, max=longest_wait_seconds),
        retry=retry_if_exception_type(NotPaired),
        sleep=pause,
        reraise=True,
    ):
        with attempt:
            number = attempt.retry_state.attempt_number
            probe(min(FIRST_PROBE_SECONDS * 1.15 ** (number - 1), LONGEST_PROBE_SECONDS))
