"""The root of the command line. A command's module is imported when the command is asked for."""

from importlib import import_module
from typing import Any

import click

from t3flow import __version__
from t3flow.cli.commands import Commands

MODULES = {
    "status": "look",
    "enqueue": "enqueue",
    "deferrals": "look",
    "freeze": "switch",
    "unfreeze": "switch",
    "pin": "switch",
    "unpin": "switch",
    "runs": "runs",
    "show": "runs",
    "cancel": "runs",
    "verify": "look",
    "backups": "backups",
    "restore": "backups",
    "doctor": "doctor",
    "adopt": "adopt",
    "config": "config",
    "consumer": "programs",
    "demo": "programs",
}
"""Command → the module of this package that has it, in the order of `--help`."""

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
  NO_COLOR                      no color

\b
Completion, for bash 4.4 or newer (zsh_source and fish_source for the others):
  eval "$(_T3FLOW_COMPLETE=bash_source t3flow)"
"""


class Lazy(dict[str, click.Command]):
    """The commands by name; each is imported when it is looked up."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(MODULES))  # type: ignore[arg-type]  # a command stands for itself once it is looked up

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = getattr(import_module(f"t3flow.cli.{MODULES[name]}"), name)
        return command

    def get(self, name: str, default: Any = None) -> Any:
        """The command of that name."""
        return self[name] if name in MODULES else default

    def items(self) -> Any:
        """All commands, imported."""
        return {name: self[name] for name in self}.items()

    def values(self) -> Any:
        """All commands, imported."""
        return {name: self[name] for name in self}.values()


@click.group(cls=Commands, commands=Lazy(), help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="t3flow")
@click.option("--config", metavar="FILE", help="Settings file instead of T3FLOW_CONFIG or /etc/t3flow/config.toml.")
def root(config: str | None) -> None:
    """The options of every command."""
