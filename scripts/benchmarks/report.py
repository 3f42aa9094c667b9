"""From samples to what people read: medians, ranges, ratios to this product."""

import statistics

from benchmarks import workloads
from benchmarks.systems import OURS


def table(workload, series):
    """Lines of text: a row for each system, two columns for each figure."""
    module = workloads.load(workload)
    lines = ["", f"{workload}  {workloads.purpose(workload)}"]
    ours = next((one for one in series if one.system == OURS and one.samples), None)
    rows = [["", *(f"{name} ({figure.unit})" for name, figure in module.FIGURES.items()), ""]]
    for one in series:
        if not one.samples:
            rows.append([one.system, *["-"] * len(module.FIGURES), one.reason])
            continue
        cells = [cell(one.values(name)) for name in module.FIGURES]
        rows.append([one.system, *cells, advantage(module, ours, one)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        padded = [
            row[0].ljust(widths[0]),
            *(text.rjust(width) for text, width in zip(row[1:-1], widths[1:], strict=True)),
        ]
        lines.append(("  " + "   ".join([*padded, row[-1]])).rstrip())
    return lines


def cell(values):
    """The middle and the range.

    >>> cell([3.0, 1.0, 2.0])
    '2 [1, 3]'
    """
    if not values:
        return "-"
    middle = short(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} [{short(min(values))}, {short(max(values))}]"


def short(value):
    """Three or four digits that count.

    >>> short(123456.7), short(0.01234), short(12.345), short(0.0)
    ('123,457', '0.0123', '12.3', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def advantage(module, ours, other):
    """How many times better this product is, by each figure that both have; by the first alone if there are many."""
    if ours is None or other is ours:
        return ""
    found = []
    for name, figure in list(module.FIGURES.items())[: getattr(module, "COMPARED", 1)]:
        factor = ratio(figure, ours.values(name), other.values(name))
        if factor is not None:
            found.append(f"{factor:.2f} x")
    return "ours is " + ", ".join(found) if found else ""


def ratio(figure, ours, others):
    """Above 1: ours is better.

    >>> ratio(workloads.Figure("s"), [1.0, 3.0, 2.0], [4.0])
    2.0
    """
    if not ours or not others:
        return None
    mine, theirs = statistics.median(ours), statistics.median(others)
    if mine <= 0 or theirs <= 0:
        return None
    return mine / theirs if figure.higher_is_better else theirs / mine


def as_data(results):
    """What --json writes of the workloads."""
    data = {}
    for workload, series in results.items():
        figures = workloads.load(workload).FIGURES
        data[workload] = {
            "purpose": workloads.purpose(workload),
            "figures": {
                name: {"unit": figure.unit, "higher_is_better": figure.higher_is_better}
                for name, figure in figures.items()
            },
            "systems": {
                one.system: {
                    "version": one.version,
                    "samples": one.samples,
                    "medians": {name: statistics.median(one.values(name)) for name in figures if one.values(name)},
                    "client_peak_bytes": one.client_peak_bytes,
                    **({"reason": one.reason} if one.reason else {}),
                }
                for one in series
            },
        }
    return data
