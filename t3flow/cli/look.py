"""Looking: status, deferrals, verify."""

from typing import Any

import click

from t3flow.cli import complete, state
from t3flow.cli.base import (
    Commands,
    UsageError,
    as_json,
    dump,
    journal,
    known_users,
    open_host,
    settings,
    styled,
    table,
    when,
)


@click.command()
@as_json
def status(as_json: bool) -> None:
    """What is wrong, then who runs what. Example: t3flow status --json

    First a line for each thing that is wrong, ending with what to type. Then default version and last good, what is followed, the next bump,
    the run in progress, rejected versions; and of each user the server, the version it runs, the version assigned, whether pairing
    worked when it was last tried, and the deferral. It changes nothing, and exits 0 whatever it finds: for alarms see verify and doctor.
    """
    read = settings()
    found = state.collect(read)
    if as_json:
        dump(found)
        return
    for problem in state.problems(found):
        click.echo(styled(problem, fg="red"))
    consumer = found["consumer"]
    click.echo(f"consumer    {'pid ' + str(consumer['pid']) if consumer['alive'] else 'not running'}")
    click.echo(f"default     {found['default_version'] or '-'}   last good {found['last_good'] or '-'}")
    click.echo(
        f"follows     {'pinned to ' + found['pin'] if found['pin'] else 'tag ' + found['tracked_tag']}   next bump {state.next_bump(found)}"
    )
    click.echo(f"run         {found['run'] or 'none in progress'}")
    if bake := found["bake"]:
        click.echo(f"watched     pairings on {bake['version']} until {bake['until']}  {bake['problem']}".rstrip())
    for version, reason in found["rejected"].items():
        click.echo(f"rejected    {version}: {reason.removeprefix(f'{version} ')}")
    rows = []
    for user, each in found["users"].items():
        deferred = each["deferred"]
        waits = f"→ {deferred['target']}, waits: {deferred['waiting_for']}" if deferred else ""
        if deferred and deferred["waiting_for"] == "frozen" and not found["frozen"]:
            waits += f" ({deferred['detail']})"
        if not each["managed"] and not waits:
            waits = f"not managed: {each['why_unmanaged'].rpartition(': ')[0]}"
        rows.append(
            [
                user,
                "up" if each["active"] else "down",
                each["running_version"] or "-",
                each["assigned_version"] or "-",
                each["pairing"],
                waits,
            ]
        )
    table(["user", "server", "runs", "assigned", "pairing", "deferred"], rows)


@click.group(cls=Commands, invoke_without_command=True)
@as_json
@click.pass_context
def deferrals(context: click.Context, as_json: bool) -> None:
    """The pending deferral tasks: who waits, since when, why, and when they are asked again. Example: t3flow deferrals --json

    \b
    waits for:
      active_turn       an agent is in mid-turn
      quiet_period      the last turn ended less than deferral.quiet_seconds ago
      running_process   something else runs below the server: detail names it
      window            deferral.window is closed
      server_stopped    the server does not run
      unreadable_state  whether they are idle cannot be told: detail says why
      frozen            tracking is frozen, or the version was rejected: detail says which
      revoked           their task was taken out
      held              a bump left them out as asked, or took them back: detail says which
      host_busy         another run has the host, the disk for backups is full, or no user pairs
    """
    if context.invoked_subcommand is not None:
        return
    found = state.deferrals(journal(settings()))
    if as_json:
        dump(found)
        return
    if not found:
        click.echo("nobody waits")
        return
    rows = [
        [
            each["user"],
            each["target"],
            when(each["since_s"]),
            str(each["checks"]),
            each["waiting_for"],
            when(each["next_check_s"]),
            each["detail"],
        ]
        for each in state.deferrals(journal(settings()), for_people=True)
    ]
    table(["user", "target", "since", "checks", "waits for", "next check", "detail"], rows)


@deferrals.command()
@click.argument("user", shell_complete=complete.users)
def revoke(user: str) -> None:
    """Take USER's queued task out, until it is restored. Example: t3flow deferrals revoke ada

    They keep their version: no drain moves them. A later bump may.
    """
    _set_revoked(user, True)
    click.echo(f"the deferral of {user} is revoked; put it back with: t3flow deferrals restore {user}")


@deferrals.command()
@click.argument("user", shell_complete=complete.users)
def restore(user: str) -> None:
    """Put USER's task back into the queue. Example: t3flow deferrals restore ada"""
    _set_revoked(user, False)
    click.echo(f"the deferral of {user} is back in the queue")


def _set_revoked(user: str, revoked: bool) -> None:
    """The consumer enacts it within a second: the journal is what counts."""
    from t3flow.host.records import deferral_records

    noted = journal(settings())
    pending = [entry.user for entry in deferral_records.deferrals(noted)]
    if user not in pending:
        raise UsageError(f"{user!r} has no pending deferral; pending: {', '.join(pending) or 'none'}")
    deferral_records.set_revoked(noted, user, revoked)


@click.command()
@click.argument("users", metavar="[USER]...", nargs=-1, shell_complete=complete.users)
@as_json
def verify(users: tuple[str, ...], as_json: bool) -> int:
    """Pair each user through the dispatch, as a browser would. Example: t3flow verify ada

    Everybody, or the USERs named. A request with the header that names the person must be answered 302 with the session's cookie, and the
    session that it opens must be authenticated. Exits 1 if somebody cannot pair. What it saw is what status shows.
    """
    from concurrent.futures import ThreadPoolExecutor

    from t3flow.host import pairing_results
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
        pairing_results.note_pairing(host.journal, each["user"], each["reason"])
    if as_json:
        dump(found)
    else:
        for each in found:
            mark = styled("pairs", fg="green") if each["ok"] else styled("CANNOT PAIR", fg="red")
            click.echo(f"{each['user']:<20} {mark} {each['reason']}")
    return 0 if all(each["ok"] for each in found) else 1
