"""The plots: throughput and latency against concurrency, and cost against what grows."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

import leather  # type: ignore[import-untyped]
from plan import at_depth, concurrent, in_store, of_session
from report import middle
from rounds import Figures, Rounds
from scale import Scale
from subjects import SERVICE, WORKERS

WIDTH, HEIGHT = 420, 300  # of one chart

Points = Sequence[tuple[float, float]]


def draw(directory: Path, rounds: Rounds, scale: Scale) -> None:
    """Write each of them into `directory` as SVG."""
    directory.mkdir(parents=True, exist_ok=True)
    _set_theme()
    grid = leather.Grid()
    for workload in ("append", "page"):
        grid.add_many([_concurrency(rounds, scale, workload, *shown) for shown in _SHOWN])
    grid.to_svg(str(directory / "connections.svg"), 3 * WIDTH, 2 * HEIGHT)
    for name, (what, lines) in _costs(rounds, scale).items():
        _chart(f"CPU µs against {what}", lines).to_svg(str(directory / f"cost-{name}.svg"), WIDTH, HEIGHT)


_SHOWN: Sequence[tuple[str, Callable[[Figures], float]]] = (
    ("requests a second", attrgetter("rate")),
    ("p50 in ms", attrgetter("p50")),
    ("p99 in ms", attrgetter("p99")),
)


def _concurrency(
    rounds: Rounds, scale: Scale, workload: str, unit: str, figure: Callable[[Figures], float]
) -> leather.Chart:
    lines = {
        workers: [
            (connections, figure(middle(rounds.figures[concurrent(workload, connections)][subject])))
            for connections in scale.connections
        ]
        for workers, subject in (("1 worker", SERVICE), ("2 workers", WORKERS))
    }
    return _chart(f"{workload}: {unit}, by connections", lines)


def _costs(rounds: Rounds, scale: Scale) -> dict[str, tuple[str, Mapping[str, Points]]]:
    """Of each plot what grows, and its lines."""

    def line(sizes: Sequence[int], name: Callable[[int], str]) -> Points:
        return [(size, middle(rounds.figures[name(size)][SERVICE]).cpu) for size in sizes]

    stores = {kind: line(scale.stores, partial(in_store, kind)) for kind in ("append", "page")}
    return {
        "depth": ("the page's number", {"page": line(scale.pages, at_depth)}),
        "length": ("the session's messages", {"append": line(scale.lengths, of_session)}),
        "store": ("the store's messages", stores),
    }


def _chart(title: str, lines: Mapping[str, Points]) -> leather.Chart:
    """Lines over a logarithmic axis, from zero on."""
    sizes = [x for x, _ in next(iter(lines.values()))]

    def place(x: float) -> float:
        """Where on an axis from 0 to 1, with room for a label at each end: leather knows no logarithms."""
        return 0.1 + 0.8 * math.log(x / sizes[0]) / math.log(sizes[-1] / sizes[0])

    chart = leather.Chart(title)
    for name, points in lines.items():
        chart.add_line([(place(x), y) for x, y in points], name=name)
    chart.add_x_scale(0, 1)
    chart.add_x_axis(ticks=[place(x) for x in sizes], tick_formatter=lambda _, at, __: f"{sizes[at]:,}")
    chart.add_y_scale(0, max(y for points in lines.values() for _, y in points))
    chart.add_y_axis(tick_formatter=lambda y, _, __: f"{float(y):,.6g}")
    return chart


def _set_theme() -> None:
    theme = leather.theme
    theme.background_color = "#ffffff"
    theme.label_color = "#666666"
    theme.title_font_size = theme.legend_font_size = theme.tick_font_size = 12
    for text in ("title", "legend", "axis_title", "tick"):
        setattr(theme, f"{text}_font_family", "monospace")
