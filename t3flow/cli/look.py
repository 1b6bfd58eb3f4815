"""Commands that look at the host: status, deferrals, verify."""

from typing import TYPE_CHECKING, Any

import click

from t3flow.cli import complete
from t3flow.cli.base import Commands, as_json, desk, journal, known_users, open_host, settings
from t3flow.cli.output import cut, dump, styled, table, tell, wrapped
from t3flow.host.pairing import last_pairings
from t3flow.state.times import ago, ahead, epoch, soon

if TYPE_CHECKING:
    from t3flow.state.documents import Status

LABEL = 12


@click.command()
@as_json
def status(as_json: bool) -> None:
    """Show what is wrong, then the host and its users. Example: t3flow status --json

    Problems come first, each with the command to run. Then follow the tracked version, the run in progress with its current step, and rejected
    versions. The table shows for each user whether the server runs, the assigned version (and the running one, if it differs), the result of the
    last pairing, and the deferral. Nightly versions are shortened to their end, such as …20260609.501; --json has them in full.

    Changes nothing. Exits 0 whatever it finds; for alerts, use verify and doctor.
    """
    from t3flow.state import host, problems

    found = host.collect(settings())
    if as_json:
        dump(found)
        return
    for problem in found["problems"]:
        click.echo(styled(wrapped(problems.line(problem)), fg="red"))
    for label, text in summary(found):
        click.echo(wrapped(text, " " * LABEL, f"{label:<{LABEL}}"))
    if found["users"]:
        click.echo()
        users_table(found)


def summary(found: "Status") -> list[tuple[str, str]]:
    """Return the lines about the host, each with its label."""
    from t3flow.state.host import next_bump

    consumer, default, good = found["consumer"], found["default_version"], found["last_good"]
    lines = [
        ("Consumer", f"running (pid {consumer['pid']})" if consumer["alive"] else "not running"),
        ("Default", f"{default or 'none yet'}{'' if good in (None, default) else f'; last good: {good}'}"),
        ("Follows", f"{found['pin']} (pinned)" if found["pin"] else f"the tag {found['tracked_tag']}"),
        ("Next bump", next_bump(found)),
        ("Run", found["run"] or "none in progress"),
    ]
    if (waits := found["run_waits"]) and waits["run"] == found["run"]:  # the problem above tells for what
        lines.append(("", f"Waiting; next attempt {ahead(epoch(waits['next_try']))}"))
    elif found["run_doing"]:
        lines.append(("", found["run_doing"]))
    if bake := found["bake"]:
        trouble = f"; nothing is seen: {bake['problem']}" if bake["problem"] else ""
        lines.append(("Watching", f"pairings on {bake['version']}, ends {ahead(epoch(bake['until']))}{trouble}"))
    for version, reason in found["rejected"].items():
        lines.append(("Rejected", cut(f"{version}: {reason.removeprefix(f'{version} ')}", LABEL)))
    return lines


def users_table(found: "Status") -> None:
    """Print the server, version, pairing and deferral of each user."""
    from t3flow.state.deferrals import in_words
    from t3flow.state.short import shortened, shortener

    users = found["users"].values()
    targets = [each["deferred"]["target"] for each in users if each["deferred"]]
    short = shortener(
        [*(each["running_version"] for each in users), *(each["assigned_version"] for each in users), *targets]
    )
    rows = []
    for user, each in found["users"].items():
        runs, led_to, deferred = each["running_version"], each["assigned_version"], each["deferred"]
        version = short.get(led_to or "", "-")
        if runs and runs != led_to:
            version = f"{short[runs]}, assigned {version}"
        waits = f"to {short[deferred['target']]}: {shortened(in_words(deferred))}" if deferred else ""
        if each["held"] and not waits:
            waits = f"held by {each['held']['by']}"
        if not each["managed"] and not waits:
            waits = f"not managed: {each['why_unmanaged'].rpartition(': ')[0]}"
        rows.append([user, "up" if each["active"] else "down", version, each["pairing"], waits])
    table(["user", "server", "version", "pairing", "deferred"], rows)


@click.group(cls=Commands, invoke_without_command=True)
@as_json
@click.pass_context
def deferrals(context: click.Context, as_json: bool) -> None:
    """List the pending deferrals: who waits, since when, and for what. Example: t3flow deferrals --json

    \b
    waiting_for, in JSON:
      active_turn       a turn is running
      quiet_period      the last turn ended less than deferral.quiet_seconds ago
      running_process   another process runs below the server: detail names it
      window            deferral.window is closed
      server_stopped    the server is not running
      unreadable_state  t3flow cannot tell whether the user is idle: detail says why
      frozen            tracking is frozen, or the version was rejected: detail says which
      revoked           an operator revoked the task
      held              an operator holds the user, or a bump left them out or rolled them back: detail says which
      host_busy         another run has the host, the backup disk is full, or no user can pair
    """
    if context.invoked_subcommand is not None:
        return
    from t3flow.state.deferrals import deferrals as pending
    from t3flow.state.deferrals import in_words
    from t3flow.state.short import shortener

    found = pending(journal(settings()))
    if as_json:
        dump(found)
        return
    if not found:
        click.echo("No deferral is pending")
        return
    short = shortener(each["target"] for each in found)
    rows = [
        [
            each["user"],
            short[each["target"]],
            ago(epoch(each["since"])),
            str(each["checks"]),
            soon(epoch(each["next_check"])),
            in_words(each),
        ]
        for each in found
    ]
    table(["user", "target", "since", "checks", "next check", "waits for"], rows)


@deferrals.command()
@click.argument("user", shell_complete=complete.users)
def revoke(user: str) -> None:
    """Revoke the queued task of USER until it is restored. Example: t3flow deferrals revoke ada

    USER keeps the present version: no drain moves USER. A later bump may.
    """
    from t3flow.service import operations

    tell(operations.set_revoked(desk(settings()), user, revoked=True))


@deferrals.command()
@click.argument("user", shell_complete=complete.users)
def restore(user: str) -> None:
    """Put the revoked task of USER back into the queue. Example: t3flow deferrals restore ada"""
    from t3flow.service import operations

    tell(operations.set_revoked(desk(settings()), user, revoked=False))


@click.command()
@click.argument("users", metavar="[USER]...", nargs=-1, shell_complete=complete.users)
@as_json
def verify(users: tuple[str, ...], as_json: bool) -> int:
    """Pair each user through the dispatch, as a browser would. Example: t3flow verify ada

    All users, or each USER named. The dispatch must answer a request for the user with 302 and the session cookie, and the session must be
    authenticated. Exits 1 if a user cannot pair. status shows the result of the last attempt.
    """
    from concurrent.futures import ThreadPoolExecutor

    from t3flow.host.pairing import probe as pairing_probe

    read = settings()
    host = open_host(read)
    names = known_users(read, users) or [entry.name for entry in host.user_map().users]

    def probe(user: str) -> dict[str, Any]:
        try:
            pairing_probe.probe(host, user)
        except Exception as error:
            return {"user": user, "ok": False, "reason": str(error)}
        return {"user": user, "ok": True, "reason": ""}

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(probe, names))
    for each in found:
        last_pairings.note_pairing(host.journal, each["user"], each["reason"])
    if as_json:
        dump(found)
    else:
        longest = max((len(each["user"]) for each in found), default=0) + 2
        for each in found:
            word, color = ("pairs", "green") if each["ok"] else ("CANNOT PAIR", "red")
            text = wrapped(
                f"{word}{': ' if each['reason'] else ''}{each['reason']}", " " * longest, f"{each['user']:<{longest}}"
            )
            click.echo(text[:longest] + styled(word, fg=color) + text[longest + len(word) :])
    return 0 if all(each["ok"] for each in found) else 1
