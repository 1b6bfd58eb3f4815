"""Pairing through the dispatch, as a browser does it: the only proof that a user can work."""

import time
from collections.abc import Callable
from typing import Any

from loguru import logger
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from t3flow import T3flowError
from t3flow.engine.step import pause
from t3flow.host import http_client, own_activity, slots
from t3flow.host.host import Host, HostError
from t3flow.host.processes import ports, proc
from t3flow.host.services import running_version
from t3flow.host.services.manager import ServerState
from t3flow.settings.user_map import UserMapError
from t3flow.t3 import http as t3
from t3flow.t3.unknown import Unknown

FIRST_PROBE_SECONDS, LONGEST_PROBE_SECONDS = 0.1, 2.0
"""A server that starts accepts connections for half a second and never answers them: many short tries find it ready soonest."""
PAIR_SECONDS, SESSION_SECONDS = 20.0, 5.0
NEW_SECONDS = 3.0
MAX_BODY_BYTES = 256 * 1024
ABSENT = (200, 204, 301, 302, 307, 308, 404, 405, 410, 501)
"""What a server answers that has no such endpoint, if there is no JSON object in it."""


class NotPaired(T3flowError):
    """The user cannot pair now. The text says at which point."""


class NotReady(NotPaired):
    """The server does not listen yet, or does not answer."""


class UnknownServer(NotPaired):
    """The server answers, and in a way that t3flow does not know: that is a doubt about t3flow as much as about the server."""


class PortTaken(NotPaired):
    """Somebody else holds the user's port, so that their server cannot have it: no build's doing."""


class Misconfigured(NotPaired):
    """What leads to the user's server is not as it must be: their port's file, their line in the map."""


def get(url: str, headers: dict[str, str], timeout_seconds: float) -> http_client.Answer:
    """Return the answer to one GET, within that time as a whole. Raise NotReady without one."""
    try:
        return http_client.request(url, headers=headers, timeout_seconds=timeout_seconds, max_bytes=MAX_BODY_BYTES)
    except OSError as error:
        raise NotReady(f"{url.partition('?')[0]} does not answer ({http_client.reason(error)})") from error


def get_json(url: str, headers: dict[str, str], timeout_seconds: float) -> dict[str, Any]:
    """Return the JSON object at a URL. Raise UnknownServer where the endpoint does not seem to exist, NotPaired for any other answer.

    A status of 200 alone says nothing: t3 answers unknown paths with its page.
    """
    answer = get(url, headers, timeout_seconds)
    found = answer.json_object()
    if answer.status != 200 or found is None:
        kind = UnknownServer if answer.status in ABSENT else NotPaired
        raise kind(f"{url} answers {answer.status} and no JSON object")
    return found


def own_server(host: Host, user: str) -> int:
    """Return the pid of the user's server: the process of their unit that listens on their port, whatever launcher or wrapper is above it.

    Raises NotPaired, PortTaken, HostError, ServiceError.
    """
    server, port = host.services.state(user), host.port(user)
    pids = host.services.pids_of(user, server)
    if server.main_pid is not None and (pid := ports.listener(port, pids)) is not None:
        return pid
    if taken := ports.who_shuts_out(port, pids):
        raise PortTaken(taken_line(host, user, taken))
    if server.main_pid is None:
        raise NotPaired(f"{server.unit} does not run ({server.detail})")
    raise NotReady(f"the server of {user} does not listen on its port {port}")


def shut_out(host: Host, user: str) -> str:
    """Return who holds a user's port so that their server cannot have it, for people; "" while it has it, or could."""
    return ports.who_shuts_out(host.port(user), host.services.pids(user))


def taken_line(host: Host, user: str, whose: str) -> str:
    """That a user's port is held by somebody, for people."""
    return f"port {host.port(user)} of {user} is held by {whose}: end that process, it keeps their server out"


def port_trouble(host: Host, user: str, server: ServerState) -> str:
    """Why a running server is not alone at its user's port; "" if it is. It is not stopped then: it might not get the port back."""
    port, pids = host.port(user), host.services.pids_of(user, server)
    if others := ports.strangers(port, pids):
        return f"port {port} is not that server's alone: {others} listens there; end that process"
    if server.main_pid is not None and not ports.is_own(port, pids):
        return f"the server of {user} does not listen on its port {port}"
    return ""


def cookie_name(host: Host, user: str, timeout_seconds: float = SESSION_SECONDS) -> str:
    """Return the name of a user's session cookie: what their own server says, unless `dispatch.cookie` pins one.

    The name depends on the generation, on the address that the server binds and on the user. Raises NotPaired, UnknownServer, HostError.
    """
    if host.settings.dispatch.cookie:
        return host.settings.dispatch.cookie
    try:
        return t3.cookie_name(get_json(_own(host, user, t3.SESSION), {}, timeout_seconds))
    except Unknown as error:
        raise UnknownServer(str(error)) from error


def unknown_trouble(host: Host, user: str) -> str:
    """Return why a running server cannot be known to pair, or "". It is not stopped then: after an undo nothing could be verified.

    One that does not answer at all is no such case.
    """
    try:
        t3.cookie_name(get_json(_own(host, user, t3.SESSION), {}, LONGEST_PROBE_SECONDS))
    except (Unknown, UnknownServer) as error:
        return f"this t3 does not say whether {user} has paired: {error}"
    except NotPaired as error:
        logger.debug("{}", error)
    return ""


def _own(host: Host, user: str, path: str) -> str:
    """The URL of an endpoint of a user's own server."""
    return f"http://127.0.0.1:{host.port(user)}{path}"


def pair_once(host: Host, user: str) -> None:
    """One pairing through the dispatch, and the session that its cookie opens. Raises NotPaired, PortTaken, HostError, ServiceError.

    Another process that holds the port would be handed a credential of the user's, and could answer whatever is looked for: it is not asked.
    """
    own_server(host, user)
    name = cookie_name(host, user)
    dispatch = host.settings.dispatch
    person = host.mapped(user).person
    answer = get(f"{dispatch.url.rstrip('/')}/", {dispatch.user_header: person}, PAIR_SECONDS)
    if answer.status != 302:
        raise NotPaired(f"the dispatch answers {answer.status} instead of 302 for {person}")
    cookie = answer.cookies().get(name)
    if not cookie:
        raise NotPaired(f"the answer sets no cookie {name}")
    headers = {"Cookie": f"{name}={cookie}"}
    if not t3.is_authenticated(get_json(_own(host, user, t3.SESSION), headers, SESSION_SECONDS)):
        raise NotPaired("the session that the cookie opens is not authenticated")


def probe(host: Host, user: str) -> None:
    """`pair_once` outside a restart, noted, so that the watch after a bump does not take it for a person's. Raises NotPaired, HostError."""
    with own_activity.probing(host.journal, user):
        pair_once(host, user)


def version_that_runs(host: Host, user: str, pid: int) -> str | None:
    """Return the version that a user's server runs, of which `pid` listens or is the unit's main process; None when that cannot be told (yet).

    A launcher or a wrapper may be the main process: where neither it nor what is above it says a version, the others of the unit are asked.
    """
    noted, versions_dir = host.journal, host.settings.paths.versions_dir
    found = running_version.running_version(noted, versions_dir, user, pid)
    return found or running_version.running_version(noted, versions_dir, user, pid, host.services.pids(user))


def parted(host: Host, user: str, pid: int) -> bool:
    """Whether a user's server runs another version than they are led to: since before the host was taken over, or since their link was moved
    under it. Then it may not pair, and only a restart brings it to its link."""
    runs = version_that_runs(host, user, pid)
    return runs is not None and runs != slots.effective(host.settings.paths.versions_dir, user)


def serving_version(host: Host, user: str, timeout_seconds: float = LONGEST_PROBE_SECONDS) -> str:
    """The version of the code that answers on the user's port. Raises NotPaired, UnknownServer."""
    said = t3.served_version(get_json(_own(host, user, t3.ENVIRONMENT), {}, timeout_seconds))
    if not said:
        raise UnknownServer(f"the server of {user} does not say which version it is: GET {t3.ENVIRONMENT} names none")
    return said


def check_running(host: Host, user: str, version: str, timeout_seconds: float = LONGEST_PROBE_SECONDS) -> None:
    """The user's own server has the port, and what runs is the version. Raises NotPaired, PortTaken, HostError, ServiceError."""
    runs = version_that_runs(host, user, own_server(host, user))
    if runs != version:
        started = runs or "a program that is no installed version"
        raise NotPaired(f"the server of {user} runs {started}, not {version}")
    said = serving_version(host, user, timeout_seconds)
    if said != version:
        raise NotPaired(f"the server of {user} says it is {said}, not {version}")


def verify(
    host: Host, user: str, version: str | None, timeout_seconds: float, start_seconds: float | None = None
) -> float:
    """Waits until the user's server runs the version (None: whatever it runs) and a pairing through the dispatch succeeds.

    The time is counted from when the server answers. A big server that is still starting has until `start_seconds`, by default as long as the
    gate gave it.
    Returns the time of the first success (epoch seconds). Raises NotPaired with the last reason when the time is over, PortTaken if ever the
    port was somebody else's: the server may not have got over that.
    """
    taken: list[PortTaken] = []

    def noting(probe: Callable[[], None]) -> None:
        try:
            probe()
        except PortTaken as error:
            taken.append(error)
            raise
        except (HostError, UserMapError) as error:  # a file that is being written anew is empty for a moment
            raise Misconfigured(str(error)) from error

    try:
        if version is not None:
            check = lambda seconds: noting(lambda: check_running(host, user, version, seconds))  # noqa: E731
            _await_start(host, user, check, timeout_seconds, start_seconds)
        slots.forget_starting(host.settings.paths.versions_dir, user)
        deadline = time.monotonic() + timeout_seconds
        _until(lambda seconds: noting(lambda: pair_once(host, user)), deadline, longest_wait_seconds=2.0)
    except NotPaired as error:
        if taken:
            raise taken[-1] from error
        raise
    return time.time()


def _await_start(
    host: Host, user: str, check: Callable[[float], None], timeout_seconds: float, start_seconds: float | None
) -> None:
    """Wait for a server's first answer. Past the timeout only for one that has not ended meanwhile: one that crashes at each start has failed."""
    began = time.monotonic()
    most = host.settings.gate.start_timeout_s if start_seconds is None else start_seconds
    try:
        _until(check, began + timeout_seconds, longest_wait_seconds=0.1)
    except NotReady:
        pid = host.services.state(user).main_pid
        age = proc.age_seconds(pid) if pid is not None else None
        if age is None or age < timeout_seconds - NEW_SECONDS:
            raise
        _until(check, max(began + most, time.monotonic()), longest_wait_seconds=0.1)


def _until(probe: Callable[[float], None], deadline: float, longest_wait_seconds: float) -> None:
    """Tries a probe until it raises NotPaired no more; each try is given longer than the last."""
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
