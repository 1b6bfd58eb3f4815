"""Commands that look at the host: status, deferrals, verify."""

from typing import Any

import click

from t3flow.cli import complete
from t3flow.cli.base import Commands, as_json, desk, journal, known_users, open_host, settings
from t3flow.cli.output import dump, styled, table, tell, wrapped
from t3flow.host.pairing import last_pairings
from t3flow.state.times import ago, epoch, soon


@click.command()
@as_json
@click.option("--all", "is_full", is_flag=True, help="Show each problem, also where many are alike.")
def status(as_json: bool, is_full: bool) -> None:
    """Show what is wrong, then the host and its users. Example: t3flow status --json

    Problems come first, each with the command to run. Then follow the tracked version, the run in progress with its current step, and rejected
    versions. The table shows for each user whether the server runs, the assigned version (and the running one, if it differs), the result of the
    last pairing, and the deferral; users who need attention come first. Nightly versions are shortened to their end, such as …20260609.501; --json
    has them in full.

    Changes nothing. Exits 0 whatever it finds; for alerts, use verify and doctor. To see changes as they happen: t3flow watch.
    """
    from t3flow.state import host

    found = host.collect(settings())
    if as_json:
        dump(found)
        return
    from t3flow.cli import view

    table = ["", *view.users_lines(found)] if found["users"] else []
    for line in [*view.problem_lines(found, is_full=is_full), *view.summary_lines(found), *table]:
        click.echo(line)


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
      later             the user asked for a later date, by t3flow me later
      newer             a newer t3flow began the run: install it again, or cancel the run
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
    from t3flow.host import parallel
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

    found = parallel.for_each(probe, names, parallel.pairings_at_once())
    last_pairings.note_pairings(host.journal, {each["user"]: each["reason"] for each in found})
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
