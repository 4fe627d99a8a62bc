"""How much a run measures, and of how much data."""

from typing import NamedTuple

USUAL = 32
"""Connections with which append and page are measured beside everybody else."""


class Scale(NamedTuple):
    """`seconds` of a turn; `lengths` of sessions and sizes of `stores` in messages; `pages` of the longest session."""

    seconds: float
    connections: tuple[int, ...]
    pages: tuple[int, ...]
    lengths: tuple[int, ...]
    stores: tuple[int, ...]
    mixed: int  # requests over which memory is watched


FULL = Scale(
    2.5, (1, 8, USUAL, 128), (1, 500, 1_000, 2_000), (10, 1_000, 100_000), (20_000, 200_000, 2_000_000), 200_000
)

# What is under way when a turn ends has cost something and counts for nothing: in short turns that is much.
QUICK = Scale(0.4, (8, USUAL), (1, 400), (10, 20_000), (20_000, 200_000), 20_000)
