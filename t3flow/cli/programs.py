"""`t3flow consumer`, `t3flow web` and `t3flow demo`."""

import click

from t3flow.cli.base import UsageError, settings


@click.command()
def consumer() -> None:
    """Run the consumer in the foreground, as the systemd service does. Example: t3flow consumer

    Resumes every run in the journal and starts runs on schedule. Only one consumer may run: a second one exits and names the pid of the first.
    SIGTERM, Ctrl-C or a closed terminal ends it at a safe point, which may take as long as one restart; repeating the signal changes nothing. The
    next consumer resumes a run that was in progress.
    """
    from t3flow.service import logs
    from t3flow.service.consumer import consume

    read = settings()
    logs.configure(read)
    consume(read)


@click.command()
def web() -> None:
    """Serve the status page in the foreground, as t3flow-web.service does. Example: t3flow web

    Listens on web.listen, or on the socket that systemd passes. The page works while the consumer is down. It reads the journal and changes nothing
    itself: an action of a person in web.admins goes to the consumer as a file. Who asks is known on a Unix socket alone; on a TCP port of loopback,
    the page is read-only. SIGTERM and Ctrl-C end it. Needs the packages of t3flow[web].
    """
    try:
        from t3flow.web.server import serve
    except ModuleNotFoundError as error:
        raise UsageError(f"the page needs the package {error.name}; run: pip install 't3flow[web]'") from error
    serve(settings())


@click.command()
@click.option("--keep", is_flag=True, help="Keep the folder.")
@click.option("--plain", is_flag=True, help="Print without colors.")
@click.option("--real", "with_real", is_flag=True, help="Use the real t3 as the good nightly; npm downloads it first.")
def demo(keep: bool, plain: bool, with_real: bool) -> int:
    """Play the main job on a complete host in a temporary folder. Example: t3flow demo --keep

    Starts a registry, servers with databases, the dispatch, a supervisor and a consumer, and changes nothing outside the folder. Takes about a minute
    and exits 1 if a claim does not hold. Needs the packages of t3flow[sandbox]. With --real it takes some minutes, and exits 2 if the package (64 MB)
    cannot be downloaded.
    """
    from t3flow.sandbox.demo import main

    return main(keep=keep, plain=plain, with_real=with_real)
