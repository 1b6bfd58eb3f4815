"""The command line, one module for each group of commands. A command imports heavy modules itself."""

import gc
import os
import shlex
import sys
import traceback

EXIT_USAGE = 2


def main() -> None:
    """Run a command. Errors become one line and an exit code, never a traceback."""
    gc.disable()  # collecting garbage during imports takes a tenth of a command's time and finds none
    import click

    from t3flow import T3flowError
    from t3flow.cli.output import complain
    from t3flow.cli.root import root

    gc.enable()
    open_streams()
    arguments = [each.encode(errors="surrogateescape").decode(errors="replace") for each in sys.argv[1:]]
    try:
        sys.exit(root(arguments, standalone_mode=False) or 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as wrong:
        wrong.show()
        sys.exit(EXIT_USAGE)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except T3flowError as error:
        for line in str(error).splitlines():
            complain(f"t3flow: {line}")
        sys.exit(getattr(error, "exit_code", 1))
    except PermissionError as error:
        if os.geteuid() == 0:
            internal(error)
        else:
            words = shlex.join(["t3flow", *sys.argv[1:]])
            text = f"only root may use {error.filename or 'this part of the host'}; run: sudo {words}"
            complain(f"t3flow: {text}")
        sys.exit(1)
    except OSError as error:  # a full disk, a limit: the host's problem, not a bug
        if os.environ.get("T3FLOW_DEBUG"):
            traceback.print_exc()
        click.echo(f"t3flow: {error.filename or 'this host says'}: {error.strerror or error}", err=True)
        sys.exit(1)
    except Exception as error:
        internal(error)
        sys.exit(1)


def open_streams() -> None:
    """Have the output of a stream that the caller closed discarded: Python has None in its place, and the first file opened would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))  # noqa: SIM115 - open until the end


def internal(error: Exception) -> None:
    """Report an unexpected error in one line."""
    if os.environ.get("T3FLOW_DEBUG"):
        traceback.print_exc()
    print(f"t3flow: internal error: {error!r}; T3FLOW_DEBUG=1 shows where", file=sys.stderr)
