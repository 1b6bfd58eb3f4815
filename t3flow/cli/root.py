"""The root of the command line. Imports the module of a command when the command is used."""

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
    "me": "me",
    "hold": "hold",
    "release": "hold",
    "pin": "switch",
    "unpin": "switch",
    "runs": "runs",
    "show": "runs",
    "watch": "watch",
    "cancel": "runs",
    "actions": "actions",
    "verify": "look",
    "backups": "backups",
    "restore": "backups",
    "doctor": "doctor",
    "adopt": "adopt",
    "fleet": "fleet",
    "config": "config",
    "metrics": "metrics",
    "notify": "notify",
    "consumer": "programs",
    "web": "programs",
    "demo": "programs",
}
"""Command → the module of this package that has it, in the order of `--help`."""

HELP = """Keeps every user of this host on the current nightly of t3, without outages.

\b
A bump stages the new version, tries it on copies of all databases, and
restarts idle users one at a time, verifying each. Busy users are deferred.

\b
  t3flow status                         what is wrong, what runs
  t3flow enqueue bump --wait            move to a new version now, and watch
  t3flow enqueue bump --dry-run --wait  try it, change nothing
  t3flow deferrals                      which users wait, and for what
  t3flow enqueue drain --wait           restart deferred users who are idle
  t3flow freeze --reason "demo day"     stop updates; t3flow unfreeze resumes
  t3flow hold ada --until 2026-12-24    keep one user on their version
  t3flow runs; t3flow show RUN          what was done, step by step
  t3flow watch                          all of this, live

Every command has --help. Commands that list or show take --json: one document on
stdout, everything else on stderr.

\b
Exit codes:
  0    done; also up to date, refused, too young
  1    failed, undone or canceled, or a check found a problem
  2    wrong usage, invalid settings, or a journal of a newer t3flow
  3    frozen
  4    no consumer answers: systemctl start t3flow
  130  interrupted; a run that was followed continues

\b
Files:
  /etc/t3flow/config.toml       settings; t3flow config show lists them
  /etc/t3-autoupdate.freeze     while it exists, nothing is updated
  /var/lib/t3flow               journal, queue, keys
  /opt/t3                       versions, and the link of each user
  /var/backups/t3-state         snapshots of databases
  USERDATA/replaced-TIME        databases that were replaced

\b
Environment:
  T3FLOW_CONFIG                 the settings file
  T3FLOW_SECTION__KEY           any setting, such as T3FLOW_GATE__PORT
  T3_TRACK, T3_PIN, T3_MIGRATE_QUIET_SECONDS   as in the shell tracker
  T3FLOW_DEBUG                  a traceback for an internal error
  NO_COLOR                      no color

\b
Completion, for bash 4.4 or newer (zsh_source and fish_source for the others):
  eval "$(_T3FLOW_COMPLETE=bash_source t3flow)"
"""


class Lazy(dict[str, click.Command]):
    """The commands by name, each imported when it is looked up."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(MODULES))  # type: ignore[arg-type]  # a command stands for itself once it is looked up

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = getattr(import_module(f"t3flow.cli.{MODULES[name]}"), name)
        return command

    def get(self, name: str, default: Any = None) -> Any:
        """Return the command of that name."""
        return self[name] if name in MODULES else default

    def items(self) -> Any:
        """Import and return all commands."""
        return {name: self[name] for name in self}.items()

    def values(self) -> Any:
        """Import and return all commands."""
        return {name: self[name] for name in self}.values()


@click.group(cls=Commands, commands=Lazy(), help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="t3flow")
@click.option("--config", metavar="FILE", help="Settings file instead of T3FLOW_CONFIG or /etc/t3flow/config.toml.")
def root(config: str | None) -> None:
    """Take the options of every command."""
