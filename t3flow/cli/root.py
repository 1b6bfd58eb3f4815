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
"""


@click.group(cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="t3flow")
@click.option("--config", metavar="FILE", help="Settings file instead of T3FLOW_CONFIG or /etc/t3flow/config.toml.")
def root(config: str | None) -> None:
    """The options of every command."""


@click.command()
def consumer() -> None:
    """Run the consumer in the foreground: what the systemd service starts."""
    from t3flow import logs
    from t3flow.consumer import consume

    read = settings()
    logs.set_up(read)
    consume(read)


@click.command()
@click.option("--keep", is_flag=True, help="Leave the folder for a look.")
@click.option("--plain", is_flag=True, help="No colour.")
def demo(keep: bool, plain: bool) -> int:
    """Play the main job on real parts in a temporary folder: a whole devvm."""
    from t3flow.sandbox.demo import main

    return main(keep=keep, plain=plain)


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
