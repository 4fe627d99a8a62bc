"""Lists: the rows of a table behind a position, latest first, at the same cost however few of them its filters keep."""

from typing import Any

import asyncpg

from app.db.pool import Driver

EXAMINED = 1_000
"""Rows that one page looks at, at most."""

# The filters stand outside the inner LIMIT: inside it, a planner that finds few matches reads the table. The last row
# examined comes in any case: it says where to go on. By `place` the outer order would sort all of them.
_PAGE = """
SELECT * FROM (
    SELECT {columns}, row_number() OVER ({order}) AS place, {matches} AS matches
    FROM {table} WHERE {listed} {order} LIMIT {examined}
) examined
WHERE matches OR place = {examined} {order} LIMIT $1
"""


class Listing:
    """A list of `table` in the order of two of its `columns`, both descending.

    Its statement has no condition that nobody asks for: a planner would have to expect it. In a condition `{}` stands
    for a value.
    """

    def __init__(self, table: str, columns: str, order: tuple[str, str]) -> None:
        self._table = table
        self._columns = columns
        self._order = order
        self._listed: list[str] = []
        self._matches = ["true"]
        self._values: list[Any] = []

    def only(self, condition: str, *values: Any) -> None:
        """List those for which this holds: an index must know them."""
        self._listed.append(self._placed(condition, values))

    def matching(self, condition: str, *values: Any) -> None:
        """Of what is listed keep those for which this holds."""
        self._matches.append(self._placed(condition, values))

    def behind(self, position: tuple[Any, Any] | None) -> None:
        """Begin behind the row with this position, if there is one."""
        if position is not None:
            self.only(f"({', '.join(self._order)}) < ({{}}, {{}})", *position)

    @property
    def statement(self) -> str:
        """What is asked; $1 is one more than the rows that are wanted."""
        return _PAGE.format(
            columns=self._columns,
            table=self._table,
            order=f"ORDER BY {' DESC, '.join(self._order)} DESC",
            matches=" AND ".join(self._matches),
            listed=" AND ".join(self._listed),
            examined=EXAMINED,
        )

    async def page(self, conn: Driver, limit: int) -> tuple[list[asyncpg.Record], tuple[Any, Any] | None]:
        """At most `limit` rows, and the position of the last one examined where there may be more."""
        rows = await conn.fetch(self.statement, limit + 1, *self._values)
        kept = rows[:limit]
        more = len(rows) > limit or (bool(rows) and rows[-1]["place"] == EXAMINED)
        at, key = self._order
        return [row for row in kept if row["matches"]], (kept[-1][at], kept[-1][key]) if more else None

    def _placed(self, condition: str, values: tuple[Any, ...]) -> str:
        first = len(self._values) + 2  # behind the limit
        self._values += values
        return condition.format(*(f"${first + number}" for number in range(len(values))))
