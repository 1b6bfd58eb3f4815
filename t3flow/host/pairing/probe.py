"""A pairing through the dispatch, as a browser does it: the only proof that a user can work."""

from collections.abc import Collection
from typing import Any

from t3flow import T3flowError
from t3flow.engine.log import logger
from t3flow.host import http_client, slots
from t3flow.host.host import Host
from t3flow.host.pairing import opened_sessions, own_activity
from t3flow.host.processes import ports
from t3flow.host.services.manager import ServerState
from t3flow.host.slots import running_version
from t3flow.t3 import http as t3
from t3flow.t3.unknown import Unknown

FIRST_PROBE_SECONDS, LONGEST_PROBE_SECONDS = 0.1, 2.0
"""For its first half second a server accepts connections and never answers them: many short attempts detect readiness soonest."""
PAIR_SECONDS, SESSION_SECONDS = 20.0, 5.0
START_SLACK_SECONDS = 3.0
MAX_BODY_BYTES = 256 * 1024
STATUSES_WITHOUT_ENDPOINT = (200, 204, 301, 302, 307, 308, 404, 405, 410, 501)
"""Statuses of a server without that endpoint, if the answer is not a JSON object."""


class NotPaired(T3flowError):
    """A user cannot pair now. The text says what failed."""


class NotReady(NotPaired):
    """The server does not listen yet, or does not answer."""


class UnknownServer(NotPaired):
    """The server answers in a way that t3flow does not know. The fault may be t3flow's."""


class PortTaken(NotPaired):
    """Another process has taken the user's port. No version is at fault."""


class Misconfigured(NotPaired):
    """The user's environment file or entry in the user map is missing or malformed."""


def get(url: str, headers: dict[str, str], timeout_seconds: float) -> http_client.Answer:
    """Return the answer to one GET. The timeout covers the whole exchange. Raise NotReady without an answer."""
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
        kind = UnknownServer if answer.status in STATUSES_WITHOUT_ENDPOINT else NotPaired
        raise kind(f"{url} answers {answer.status} and no JSON object")
    return found


def own_server(host: Host, user: str) -> int:
    """Return the pid of a user's server: the process of the unit that listens on the port, not its launcher or wrapper.

    Raise NotPaired, PortTaken, HostError, ServiceError.
    """
    server, port = host.services.state(user), host.port(user)
    pids = host.services.pids_of(user, server)
    if server.main_pid is not None and (pid := ports.listening_process(port, pids)) is not None:
        return pid
    if taken := ports.port_blocker(port, pids):
        raise PortTaken(port_taken_message(host, user, taken))
    if server.main_pid is None:
        raise NotPaired(f"{server.unit} is not running ({server.detail})")
    raise NotReady(f"the server of {user} does not listen on its port {port}")


def port_blocker(host: Host, user: str) -> str:
    """Describe the process that keeps a user's server from its port; "" if the server has the port or can bind it."""
    port = host.port(user)
    if ports.can_be_bound(port):  # the manager is not asked for the processes of the unit
        return ""
    return ports.port_blocker(port, host.services.pids(user))


def port_taken_message(host: Host, user: str, process: str) -> str:
    """Return the message that a process has taken a user's port."""
    return f"port {host.port(user)} of {user} is taken by {process}: end that process so that the server can start"


def port_problem(host: Host, user: str, server: ServerState, pids: Collection[int] | None = None) -> str:
    """Return why a running server is not the only listener on its port, or "". Such a server is not stopped: it might not get the port back.

    `pids` are the processes of the unit, if they are already known.
    """
    port = host.port(user)
    pids = host.services.pids_of(user, server) if pids is None else pids
    if others := ports.foreign_listeners(port, pids):
        return f"{others} also listens on port {port} of {user}; end that process"
    if server.main_pid is not None and not ports.is_owned_by(port, pids):
        return f"the server of {user} does not listen on its port {port}"
    return ""


def cookie_name(host: Host, user: str, timeout_seconds: float = SESSION_SECONDS) -> str:
    """Return the name of a user's session cookie, as the user's own server gives it, unless `dispatch.cookie` is set.

    The name depends on the generation of t3, the bound address and the user. Raise NotPaired, UnknownServer, HostError.
    """
    if host.settings.dispatch.cookie:
        return host.settings.dispatch.cookie
    try:
        return t3.cookie_name(get_json(_own_url(host, user, t3.SESSION), {}, timeout_seconds))
    except Unknown as error:
        raise UnknownServer(str(error)) from error


def unknown_server_problem(host: Host, user: str) -> str:
    """Return why pairing with a running server cannot be verified, or "". Such a server is not stopped: its undo could not be verified either.

    A server that does not answer at all is not such a case.
    """
    try:
        t3.cookie_name(get_json(_own_url(host, user, t3.SESSION), {}, LONGEST_PROBE_SECONDS))
    except (Unknown, UnknownServer) as error:
        return f"this t3 does not say whether {user} has paired: {error}"
    except NotPaired as error:
        logger.debug("{}", error)
    return ""


def _own_url(host: Host, user: str, path: str) -> str:
    """Return the URL of an endpoint of a user's own server."""
    return f"http://127.0.0.1:{host.port(user)}{path}"


def pair_once(host: Host, user: str) -> None:
    """Pair once through the dispatch and open a session with the cookie. Raise NotPaired, PortTaken, HostError, ServiceError.

    Checks the owner of the port first: another process there would receive a credential of the user, and could fake any answer. The session is
    recorded, so that the consumer revokes it.
    """
    own_server(host, user)
    name = cookie_name(host, user)
    dispatch = host.settings.dispatch
    person = host.map_entry(user).person
    answer = get(f"{dispatch.url.rstrip('/')}/", {dispatch.user_header: person}, PAIR_SECONDS)
    if answer.status != 302:
        raise NotPaired(f"the dispatch answers {answer.status} instead of 302 for {person}")
    cookie = answer.cookies().get(name)
    if not cookie:
        raise NotPaired(f"the answer sets no cookie {name}")
    opened_sessions.note(host.journal, user, cookie)
    headers = {"Cookie": f"{name}={cookie}"}
    if not t3.is_authenticated(get_json(_own_url(host, user, t3.SESSION), headers, SESSION_SECONDS)):
        raise NotPaired("the session that the cookie opens is not authenticated")


def probe(host: Host, user: str) -> None:
    """Pair once outside a restart, and record it, so that the bake does not count it as a person's pairing. Raise as `pair_once`."""
    with own_activity.probing(host.journal, user):
        pair_once(host, user)


def running_version_of(host: Host, user: str, pid: int) -> str | None:
    """Return the version that a user's server runs, or None if it is not known (yet). `pid` listens, or is the main process of the unit.

    If the main process is a launcher or wrapper that shows no version, the other processes of the unit are read.
    """
    journal, versions_dir = host.journal, host.settings.paths.versions_dir
    version = running_version.of_server(journal, versions_dir, user, pid)
    return version or running_version.of_server(journal, versions_dir, user, pid, host.services.pids(user))


def is_off_assignment(host: Host, user: str, pid: int) -> bool:
    """Return whether a user's server runs another version than the assigned one: since before the adoption, or since the link moved.

    Such a server may not pair until its next restart.
    """
    running = running_version_of(host, user, pid)
    return running is not None and running != slots.effective(host.settings.paths.versions_dir, user)


def serving_version(host: Host, user: str, timeout_seconds: float = LONGEST_PROBE_SECONDS) -> str:
    """Return the version that the user's server reports. Raise NotPaired, UnknownServer."""
    version = t3.served_version(get_json(_own_url(host, user, t3.ENVIRONMENT), {}, timeout_seconds))
    if not version:
        raise UnknownServer(f"the server of {user} does not report its version: GET {t3.ENVIRONMENT} contains none")
    return version


def check_running(host: Host, user: str, version: str, timeout_seconds: float = LONGEST_PROBE_SECONDS) -> None:
    """Check that the user's own server has the port and runs a version. Raise NotPaired, PortTaken, HostError, ServiceError."""
    running = running_version_of(host, user, own_server(host, user))
    if running != version:
        raise NotPaired(
            f"the server of {user} runs {running or 'a program that is no installed version'}, not {version}"
        )
    reported = serving_version(host, user, timeout_seconds)
    if reported != version:
        raise NotPaired(f"the server of {user} reports version {reported}, not {version}")
