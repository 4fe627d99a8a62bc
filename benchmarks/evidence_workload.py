"""Conversations of a RAG chatbot: question and answer alternate, an answer stands on about 5 of 20,000 chunks.

Chunks are popular by Zipf's law, 5 belong to a document. Their texts are English prose (the language reference inside
every Python), because a database compresses what is large: noise or one repeated letter would measure another thing.
"""

import pydoc_data.topics
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple
from uuid import UUID

from app import ids

CHUNKS, CHUNKS_A_DOCUMENT = 20_000, 5
RARE, RARE_USES = 20, 20  # documents that nobody else names, and how many answers name each
SESSION, ACTIVE = 50, 100  # messages of a session, and sessions that are written to in turn
USERS = 2_000
START, EVERY = datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=20, microseconds=137)

_PROSE = " ".join(" ".join(topic.split()) for topic in pydoc_data.topics.topics.values())
_PLACES = ("handbook/benefits", "handbook/travel", "it/security", "legal/contracts", "products/manuals")
_URL = "https://docs.example.org/{}/guide-to-section-{:05}.html"


class Sent(NamedTuple):
    """A message of a load, where and when it is stored."""

    session_id: UUID
    seq: int
    at: datetime
    body: dict[str, Any]


@dataclass
class Workload:
    """The same conversations each time it is made."""

    dice: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - repeatable, no secret

    def __post_init__(self) -> None:
        self.chunks = [self._chunk(number) for number in range(CHUNKS)]
        self.dice.shuffle(self.chunks)  # else the chunks of one document would be popular together
        self.rare = [self._chunk(CHUNKS + number * CHUNKS_A_DOCUMENT) for number in range(RARE)]
        self._weights = list(accumulate(1 / rank for rank in range(1, CHUNKS + 1)))
        self._next = 2 * CHUNKS

    def load(self, messages: int) -> Iterator[Sent]:
        """So many messages; each rare document is named by RARE_USES answers, spread evenly."""
        step, answers, at = max(1, messages // 2 // (RARE * RARE_USES)), 0, START
        for _ in range(messages // (SESSION * ACTIVE)):
            sessions = [ids.new() for _ in range(ACTIVE)]
            for seq in range(1, SESSION + 1):
                for session in sessions:
                    at += EVERY
                    planted = answers // step if seq % 2 == 0 and answers % step == 0 else -1
                    answers += seq % 2 == 0
                    rare = [self.rare[planted % RARE]] if 0 <= planted < RARE * RARE_USES else []
                    yield Sent(session, seq, at, self.question() if seq % 2 else self.answer(rare))

    def question(self) -> dict[str, Any]:
        return {"sender": "user", "content": self._prose(60, 120)}

    def answer(self, chunks: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """An answer that stands on `chunks` and on others, 3 to 7 in all."""
        wanted, found = self.dice.randint(3, 7), {id(chunk): chunk for chunk in chunks or ()}
        while len(found) < wanted:
            [chunk] = self.dice.choices(self.chunks, cum_weights=self._weights)
            found[id(chunk)] = chunk
        return self._answer(list(found.values()))

    def answer_on_news(self) -> dict[str, Any]:
        """An answer that stands on 5 documents that nobody has seen."""
        self._next += 5 * CHUNKS_A_DOCUMENT
        return self._answer([self._chunk(self._next - number * CHUNKS_A_DOCUMENT) for number in range(5)])

    def _answer(self, chunks: list[dict[str, Any]]) -> dict[str, Any]:
        scores = sorted((round(self.dice.uniform(0.2, 0.95), 4) for _ in chunks), reverse=True)
        documents = [
            {**chunk, "score": score, "rank": rank, "in_prompt": rank < len(chunks), "cited": rank == 1}
            for rank, (chunk, score) in enumerate(zip(chunks, scores, strict=True), start=1)
        ]
        context = {"query": self._prose(60, 120), "documents": documents}
        metadata = {"model": "gpt-5", "tokens": self.dice.randint(500, 4_000)}
        return {"sender": "assistant", "content": self._prose(400, 900), "context": context, "metadata": metadata}

    def _chunk(self, number: int) -> dict[str, Any]:
        document, place = divmod(number, CHUNKS_A_DOCUMENT)
        document_id = _URL.format(_PLACES[document % len(_PLACES)], document)
        return {
            "document_id": document_id,
            "chunk_id": f"{document_id}#{place}",
            "version": "2026-03-01",
            "title": f"Guide to section {document}",
            "text": self._prose(570, 970),
            "metadata": {"page": place + 1, "language": "en"},
        }

    def _prose(self, least: int, most: int) -> str:
        start, length = self.dice.randrange(len(_PROSE) - most), self.dice.randint(least, most)
        return _PROSE[start : start + length]
