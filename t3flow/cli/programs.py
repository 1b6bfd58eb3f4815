"""Programs that go on: the consumer, and the demo."""

import click

from t3flow.cli.base import settings


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
    logs.configure(read)
    consume(read)


@click.command()
@click.option("--keep", is_flag=True, help="Leave the folder for a look.")
@click.option("--plain", is_flag=True, help="No color.")
@click.option("--real", "with_real", is_flag=True, help="The good nightly is the real t3, which npm fetches first.")
def demo(keep: bool, plain: bool, with_real: bool) -> int:
    """Play the main job on real parts in a temporary folder: a whole devvm. Example: t3flow demo --keep

    A registry, servers with databases, the dispatch, a supervisor and a consumer; nothing outside the folder is touched. It takes about
    a minute and exits 1 if anything was not as announced. It needs the packages of t3flow[sandbox].
    With --real it takes some minutes, and exits 2 where the package (64 MB) cannot be fetched.
    """
    from t3flow.sandbox.demo import main

    return main(keep=keep, plain=plain, with_real=with_real)
