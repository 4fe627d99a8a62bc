"""Figures as they stand in docs/decisions/."""

from collections.abc import Sequence


def print_table(*rows: Sequence[str]) -> None:
    """A table in Markdown; the first row is its head."""
    for number, row in enumerate(rows):
        print("| " + " | ".join(row) + " |")
        if number == 0:
            print("|" + " --- |" * len(row))
    print(flush=True)
