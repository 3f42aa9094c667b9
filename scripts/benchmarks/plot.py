"""One bar chart for each figure that systems are compared by, as SVG written by hand: nothing to install."""

import math
import statistics
from html import escape

from benchmarks import workloads
from benchmarks.report import short
from benchmarks.systems import OURS

WIDTH, ROW, LABEL, BAR, TOP = 720, 26, 130, 440, 56
DECADES_MIN_FOR_LOGARITHM = 1.5
STYLE = """text { font: 13px sans-serif; fill: #222 } .title { font-weight: bold } .note { fill: #666; font-size: 11px }
.bar { fill: #9db4c8 } .ours { fill: #d9742b } .range { stroke: #222; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .note { fill: #999 } .range { stroke: #ddd } }"""


def write(directory, results):
    """One file for each workload; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for workload, series in results.items():
        for name in getattr(workloads.load(workload), "PLOTTED", list(workloads.load(workload).FIGURES)[:1]):
            rows = [(one.system, one.values(name)) for one in series if one.values(name)]
            if rows:
                path = directory / f"{workload}-{name.replace(' ', '-')}.svg"
                path.write_text(chart(workload, name, rows))
                paths.append(path)
    return paths


def chart(workload, name, rows):
    figure = workloads.load(workload).FIGURES[name]
    scale, is_logarithmic = scale_for([value for _, values in rows for value in values])
    height = TOP + ROW * len(rows) + 12
    direction = "more is better" if figure.higher_is_better else "less is better"
    note = f"{name}, {figure.unit}; {direction}; bars are medians, lines ranges" + (
        "; logarithmic" if is_logarithmic else ""
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="8" y="20">{escape(f"{workload}: {workloads.purpose(workload)}")}</text>',
        f'<text class="note" x="8" y="38">{escape(note)}</text>',
    ]
    for number, (system, values) in enumerate(rows):
        lines += row(system, values, TOP + ROW * number, scale)
    return "\n".join([*lines, "</svg>", ""])


def row(system, values, top, scale):
    middle = statistics.median(values)
    length, low, high = scale(middle), LABEL + scale(min(values)), LABEL + scale(max(values))
    kind = "bar ours" if system == OURS else "bar"
    yield f'<text x="{LABEL - 8}" y="{top + 15}" text-anchor="end">{escape(system)}</text>'
    yield f'<rect class="{kind}" x="{LABEL}" y="{top + 3}" width="{length:.1f}" height="{ROW - 8}"/>'
    yield f'<path class="range" d="M{low:.1f} {top + 12}H{high:.1f}"/>'
    yield f'<text x="{max(LABEL + length, high) + 6:.1f}" y="{top + 15}">{short(middle)}</text>'


def scale_for(values):
    """(a function from values to lengths, whether it is logarithmic: only where a linear one would hide the small)."""
    low, high = min(values), max(values)
    if low > 0 and math.log10(high / low) > DECADES_MIN_FOR_LOGARITHM:
        floor = math.floor(math.log10(low))
        span = math.log10(high) - floor
        return (lambda value: BAR * (math.log10(value) - floor) / span), True
    return (lambda value: max(0.0, BAR * value / (high or 1))), False
