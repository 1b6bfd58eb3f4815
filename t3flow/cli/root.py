"""The root of the command line."""

import click

from t3flow import __version__
from t3flow.cli import adopt, backups, config, doctor, enqueue, look, runs, switch
from t3flow.cli.base import Commands, settings

HELP = """Follows a nightly build of t3 for everybody on this host, without an outage.

\b
A bump stages the new version, gates it on copies of all databases, and gives it
to idle users one at a time, each verified; who is at work is deferred.

\b
  t3flow status                      what is wrong, who runs what
  t3flow enqueue bump --wait         look for a new version now, and watch
  t3flow enqueue bump --dry-run --wait   only try it, change nothing
  t3flow deferrals                   who still waits, and why
  t3flow enqueue drain --wait        try them now
  t3flow freeze --reason "demo day"  hold everything; t3flow unfreeze
  t3flow runs; t3flow show RUN       what was done, step by step

t3flow COMMAND --help says more about each. Lists and states take --json: one document on
stdout, all else on stderr.

\b
Exit codes:
  0    done; also up to date, refused, too young
  1    failed, undone, cancelled, or something was found wrong
  2    wrong usage, or settings that cannot be used
  3    frozen
  4    no consumer answers: systemctl start t3flow
  130  interrupted; a run that was followed goes on

\b
Files:
  /etc/t3flow/config.toml       settings; t3flow config show lists them with their sources
  /etc/t3-autoupdate.freeze     while it exists, nothing is updated
  /var/lib/t3flow               journal (the truth), queue file, keys
  /opt/t3                       versions, and each user's link to theirs
  /var/backups/t3-state         snapshots of databases
  USERDATA/replaced-TIME        databases that were replaced, in their owner's userdata

\b
Environment:
  T3FLOW_CONFIG                 the settings file
  T3FLOW_SECTION__KEY           any setting, such as T3FLOW_GATE__PORT
  T3_TRACK, T3_PIN, T3_MIGRATE_QUIET_SECONDS   as the shell tracker took them
  T3FLOW_DEBUG                  a traceback for an internal error
  NO_COLOR                      no colour

\b
Completion, for bash 4.4 or newer (zsh_source and fish_source for the others):
  eval "$(_T3FLOW_COMPLETE=bash_source t3flow)"
"""


@click.group(cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="t3flow")
@click.option("--config", metavar="FILE", help="Settings file instead of T3FLOW_CONFIG or /etc/t3flow/config.toml.")
def root(config: str | None) -> None:
    """The options of every command."""


@click.command()
def consumer() -> None:
    """Run the consumer in the foreground: what the systemd service starts. Example: t3flow consumer

    It takes up every run that is journaled, and begins one by itself when the schedule says so. A second one refuses with the first
    one's pid. SIGTERM, Ctrl-C or a closed terminal ends it at a safe point, which may take as long as one user's restart; a second one
    changes nothing. A run under way goes on with the next consumer.
    """
    from t3flow.service import logs
    from t3flow.service.consumer import consume

    read = settings()
    logs.set_up(read)
    consume(read)


@click.command()
@click.option("--keep", is_flag=True, help="Leave the folder for a look.")
@click.option("--plain", is_flag=True, help="No colour.")
@click.option("--real", "with_real", is_flag=True, help="The good nightly is the real t3, which npm fetches first.")
def demo(keep: bool, plain: bool, with_real: bool) -> int:
    """Play the main job on real parts in a temporary folder: a whole devvm. Example: t3flow demo --keep

    A registry, servers with databases, the dispatch, a supervisor and a consumer; nothing outside the folder is touched. It takes about
    a minute and exits 1 if anything was not as announced. It needs the packages of t3flow[sandbox].
    With --real it takes some minutes, and exits 2 where the package (64 MB) cannot be fetched.
    """
    from t3flow.sandbox.demo import main

    return main(keep=keep, plain=plain, with_real=with_real)


for command in (
    look.status,
    enqueue.enqueue,
    look.deferrals,
    switch.freeze,
    switch.unfreeze,
    switch.pin,
    switch.unpin,
    runs.runs,
    runs.show,
    runs.cancel,
    look.verify,
    backups.backups,
    backups.restore,
    doctor.doctor,
    adopt.adopt,
    config.config,
    consumer,
    demo,
):
    root.add_command(command)
