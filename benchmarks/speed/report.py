"""The tables: what every subject did, and how far that is from the targets."""

from collections.abc import Sequence
from statistics import median

from load import generator
from rounds import Figures, Rounds
from subjects import FROM_PYTHON
from tables import print_table
from targets import Outcome


def print_report(rounds: Rounds, outcomes: Sequence[Outcome]) -> None:
    _print_figures(rounds)
    _print_outcomes(outcomes)


def _print_figures(rounds: Rounds) -> None:
    rows = [["workload", "subject", "a second", "CPU µs server + PostgreSQL", "p50 ms", "p99 ms"]]
    for workload, subjects in rounds.figures.items():
        for subject, figures in subjects.items():
            found = middle(figures)
            latencies = (f"{latency:.1f}" if latency else "" for latency in (found.p50, found.p99))
            costs = f"{found.server:,.0f} + {found.postgres:,.0f}"
            rows.append([workload, subject, f"{found.rate:,.0f}", costs, *latencies])
    print_table(*rows)
    constant, from_python = (middle(rounds.figures["append"][subject]) for subject in ("constant", FROM_PYTHON))
    print(
        f"Requests a second that the constant route answers: {constant.rate:,.0f} to {generator()}, "
        f"{from_python.rate:,.0f} to the generator in Python, which is busy {from_python.client:.0%} of the time.\n"
    )


def middle(figures: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    return Figures(*(median(column) for column in zip(*figures, strict=True)))


def _print_outcomes(outcomes: Sequence[Outcome]) -> None:
    rows = [["ratio", "median (least-most)", "target", ""]]
    for one in outcomes:
        spread = f" ({_short(min(one.values))}-{_short(max(one.values))})" if len(one.values) > 1 else ""
        rows.append([one.what, _short(median(one.values)) + spread, one.target, "met" if one.is_met else "missed"])
    print_table(*rows)


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"  # noqa: PLR2004 - three digits say enough
