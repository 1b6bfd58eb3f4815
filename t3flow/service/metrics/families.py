"""Short ways to make metrics for the collector."""

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from t3flow.host.records.counters import SUM, Counters

Samples = Iterable[tuple[tuple[str, ...], float | None]]
"""(values of the labels, value or None for no sample)."""


def gauge(name: str, meaning: str, value: float | None) -> GaugeMetricFamily:
    """Return a gauge without labels. None: no sample."""
    return gauges(name, meaning, (), [((), value)])


def info(name: str, meaning: str, label: str, value: str | None) -> GaugeMetricFamily:
    """Return a gauge of 1 whose label has a text. None: no sample."""
    return gauges(name, meaning, [label], [((value,), 1.0)] if value else [])


def gauges(name: str, meaning: str, labels: Sequence[str], samples: Samples) -> GaugeMetricFamily:
    """Return a gauge with a sample for each combination of labels."""
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for key, value in samples:
        if value is not None:
            family.add_metric(key, float(value))
    return family


def counter(
    name: str, meaning: str, counted: Counters, labels: Sequence[str] = (), known: Sequence[tuple[str, ...]] = ()
) -> CounterMetricFamily:
    """Return a counter. `known` labels have a sample before the first count, because Prometheus sees no increase from nothing to 1."""
    family = CounterMetricFamily(name, meaning, labels=labels)
    values = {**dict.fromkeys(known, 0.0), **{key: each.value for key, each in counted.items()}}
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def histogram(
    name: str,
    meaning: str,
    counted: Mapping[str, Counters],
    metric: str,
    bounds: Sequence[float],
    labels: Sequence[str] = (),
) -> HistogramMetricFamily:
    """Return a histogram of the counters `metric`, whose last label is the bound. A bound of another release counts below the next one here.

    A histogram without labels has samples before the first count.
    """
    family = HistogramMetricFamily(name, meaning, labels=labels)
    buckets: dict[tuple[str, ...], dict[float, float]] = {} if labels else {(): dict.fromkeys(bounds, 0.0)}
    for (*key, bound), each in counted.get(metric, {}).items():
        at = next((limit for limit in bounds if float(bound) <= limit), float("inf"))
        row = buckets.setdefault(tuple(key), dict.fromkeys(bounds, 0.0))
        row[at] = row.get(at, 0.0) + each.value
    sums = counted.get(f"{metric}{SUM}", {})
    for labeled, row in sorted(buckets.items()):
        total, cumulative = 0.0, []
        for limit in bounds:
            total += row[limit]
            cumulative.append((str(limit), total))
        cumulative.append(("+Inf", total + row.get(float("inf"), 0.0)))
        family.add_metric(labeled, cumulative, sums[labeled].value if labeled in sums else 0.0)
    return family
