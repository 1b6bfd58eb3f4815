"""`t3flow metrics`."""

import click

from t3flow.cli.base import settings


@click.command()
def metrics() -> None:
    """Print the metrics of the host in Prometheus's text format. Example: t3flow metrics

    They are read now, from the same sources as status: with or without a consumer, and whether or not metrics.textfile and metrics.listen are set.
    Counters are those of the journal, so they survive restarts and the deletion of old runs. The meaning of each metric is in docs/monitoring.md.
    """
    from t3flow.service.metrics.collector import Metrics

    click.echo(Metrics(settings()).text(), nl=False)
