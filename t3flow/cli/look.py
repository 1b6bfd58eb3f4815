"""Looking: status, deferrals, verify."""

from typing import Any

import click

from t3flow.cli import complete
from t3flow.cli.base import Commands, UsageError, as_json, journal, known_users, open_host, settings
from t3flow.cli.output import cut, dump, styled, table, wrapped
from t3flow.state.times import ago, ahead, epoch, soon

LABEL = 12


@click.command()
@as_json
def status(as_json: bool) -> None:
    """What is wrong, then who runs what. Example: t3flow status --json

    First a line for each problem, which ends with the command to run. Then what is followed, the run in progress with what it does at this moment,
    and rejected versions; then each user: whether the server runs, the version (where the server still runs another than the assigned one: both),
    how pairing went when last tried, and the deferral. A nightly is shortened to its end, such as …20260609.501; --json has it in full.
    It changes nothing, and exits 0 whatever it finds: for alarms see verify and doctor.
    """
    from t3flow.state import host, problems

    found = host.collect(settings())
    if as_json:
        dump(found)
        return
    for problem in problems.capitalized(problems.problems(found)):
        click.echo(styled(wrapped(problem), fg="red"))
    for label, text in summary(found):
        click.echo(wrapped(text, " " * LABEL, f"{label:<{LABEL}}"))
    if found["users"]:
        click.echo()
        users_table(found)


def summary(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The state of the host beside its users, line by line."""
    from t3flow.state.host import next_bump

    consumer, default, good = found["consumer"], found["default_version"], found["last_good"]
    lines = [
        ("Consumer", f"running (pid {consumer['pid']})" if consumer["alive"] else "not running"),
        ("Default", f"{default or 'none yet'}{'' if good in (None, default) else f'; last good: {good}'}"),
        ("Follows", f"{found['pin']} (pinned)" if found["pin"] else f"the tag {found['tracked_tag']}"),
        ("Next bump", next_bump(found)),
        ("Run", found["run"] or "none in progress"),
    ]
    if found["run_doing"]:
        lines.append(("", found["run_doing"]))
    if bake := found["bake"]:
        trouble = f"; nothing is seen: {bake['problem']}" if bake["problem"] else ""
        lines.append(("Watching", f"pairings on {bake['version']}, ends {ahead(epoch(bake['until']))}{trouble}"))
    for version, reason in found["rejected"].items():
        lines.append(("Rejected", cut(f"{version}: {reason.removeprefix(f'{version} ')}", LABEL)))
    return lines


def users_table(found: dict[str, Any]) -> None:
    """Print each user's server, version, pairing and deferral."""
    from t3flow.state.deferrals import in_words
    from t3flow.state.short_versions import shortener

    users = found["users"].values()
    targets = [each["deferred"]["target"] for each in users if each["deferred"]]
    short = shortener(
        [*(each["running_version"] for each in users), *(each["assigned_version"] for each in users), *targets]
    )
    rows = []
    for user, each in found["users"].items():
        runs, led_to, deferred = each["running_version"], each["assigned_version"], each["deferred"]
        version = short.get(led_to, "-")
        if runs and runs != led_to:
            version = f"{short[runs]}, assigned {version}"
        waits = f"to {short[deferred['target']]}: {in_words(deferred)}" if deferred else ""
        if not each["managed"] and not waits:
            waits = f"not managed: {each['why_unmanaged'].rpartition(': ')[0]}"
        rows.append([user, "up" if each["active"] else "down", version, each["pairing"], waits])
    table(["user", "server", "version", "pairing", "deferred"], rows)


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
    from t3flow.state.deferrals import deferrals as pending
    from t3flow.state.deferrals import in_words
    from t3flow.state.short_versions import shortener

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
        longest = max((len(each["user"]) for each in found), default=0) + 2
        for each in found:
            word, color = ("pairs", "green") if each["ok"] else ("CANNOT PAIR", "red")
            text = wrapped(
                f"{word}{': ' if each['reason'] else ''}{each['reason']}", " " * longest, f"{each['user']:<{longest}}"
            )
            click.echo(text[:longest] + styled(word, fg=color) + text[longest + len(word) :])
    return 0 if all(each["ok"] for each in found) else 1
