"""Answers a question from retrieved chunks, with their best sentences or through a chat model, and says from which."""

import heapq
import os
import re
import time
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple, Self

import httpx
from memory import JSON, Memory
from retrieval import CODE, NEW_UNIT, RETRIEVER, SENTENCE_END, Hit, Library, Ranking

RETRIEVED = 8  # chunks kept as the evidence of an answer
IN_PROMPT = 4  # the best of them, from which it is made
REMEMBERED = 10  # earlier messages that a prompt repeats
SENTENCES = 3
CLOSE_ENOUGH = 0.5  # of the best sentence's score
MODEL_TIMEOUT = 120.0
NOTHING_FOUND = "I found nothing about that in the documents."
INSTRUCTION = (
    "Answer the last question from the numbered passages alone. After each sentence put the number of the passage it "
    "rests on, like [1]. If the passages do not answer the question, say so."
)


class Turn(NamedTuple):
    sender: str
    content: str


class Answer(NamedTuple):
    text: str
    cited: frozenset[int]  # the ranks of the chunks it names


class ModelError(Exception):
    """The chat model gave no answer. The text says why, in one line."""


def evidence(question: str, hits: Sequence[Hit], answer: Answer, latency_ms: float) -> JSON:
    """What the answer stood on, in the shape that the service understands as a message's context."""
    documents = [
        {
            "document_id": hit.chunk.document_id,
            "chunk_id": hit.chunk.chunk_id,
            "title": hit.chunk.title,
            "text": hit.chunk.text,
            "score": hit.score,
            "rank": hit.rank,
            "in_prompt": hit.rank <= IN_PROMPT,
            "cited": hit.rank in answer.cited,
        }
        for hit in hits
    ]
    return {"query": question, "retriever": RETRIEVER, "latency_ms": latency_ms, "documents": documents}


def extract(question: str, hits: Sequence[Hit]) -> Answer:
    """The sentences that fit the question best, in reading order, each group followed by the rank of its chunk."""
    where: dict[str, Hit] = {}  # each sentence with the best chunk it stands in
    for hit in hits:
        for sentence in sentences(hit.chunk.paragraphs):
            where.setdefault(sentence, hit)
    quoted: dict[int, list[str]] = {}
    for sentence in _best(question, where):
        quoted.setdefault(where[sentence].rank, []).append(sentence)
    return Answer("\n\n".join(map(_with_rank, quoted.items())) or NOTHING_FOUND, frozenset(quoted))


def _best(question: str, where: Mapping[str, Hit]) -> list[str]:
    """A few sentences, in the given order. What one lacks may stand around it, so heading and chunk count as well."""
    candidates = list(where)
    ranking = Ranking([f"{where[sentence].chunk.heading}\n{sentence}" for sentence in candidates])
    found = [(score * where[candidates[at]].score, at) for at, score in ranking.search(question, len(candidates))]
    best = heapq.nlargest(SENTENCES, found)
    return [candidates[at] for score, at in sorted(best, key=itemgetter(1)) if score > best[0][0] * CLOSE_ENOUGH]


def _with_rank(quotation: tuple[int, list[str]]) -> str:
    rank, parts = quotation
    text = "\n".join(parts)
    return f"{text}\n[{rank}]" if text.endswith(CODE) else f"{text} [{rank}]"


def sentences(paragraphs: Sequence[str]) -> list[str]:
    """What an answer may quote: sentences, list items, blocks of code; a colon keeps one together with the next."""
    found: list[str] = []
    for part in (part for paragraph in paragraphs for part in _parts(paragraph)):
        if found and found[-1].endswith(":"):
            found[-1] += f"\n{part}"
        else:
            found.append(part)
    return [sentence for sentence in found if not sentence.endswith(":")]


def _parts(paragraph: str) -> list[str]:
    if paragraph.lstrip().startswith(CODE):
        return [paragraph]
    units = (" ".join(unit.split()) for unit in NEW_UNIT.split(paragraph))
    return [part for unit in units for part in SENTENCE_END.split(unit) if part]


class ChatModel:
    """Any endpoint that speaks OpenAI's chat completions."""

    def __init__(self, base_url: str, key: str, name: str) -> None:
        self.name = name
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @classmethod
    def from_environment(cls) -> Self | None:
        """The model's name switches it on: no endpoint has one that could be the default everywhere."""
        if not (name := os.environ.get("OPENAI_MODEL")):
            return None
        base_url = os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        return cls(base_url, os.environ.get("OPENAI_API_KEY", ""), name)

    def answer(self, question: str, hits: Sequence[Hit], turns: Sequence[Turn]) -> Answer:
        passages = "\n\n".join(f"[{hit.rank}] {hit.chunk.title}\n{hit.chunk.text}" for hit in hits)
        messages = [
            {"role": "system", "content": f"{INSTRUCTION}\n\n{passages}"},
            *({"role": turn.sender, "content": turn.content} for turn in turns),
            {"role": "user", "content": question},
        ]
        text = self._complete(messages)
        named = {int(number) for number in re.findall(r"\[(\d{1,3})\]", text)}
        return Answer(text, frozenset(named & {hit.rank for hit in hits}))

    def _complete(self, messages: Sequence[dict[str, str]]) -> str:
        body = {"model": self.name, "messages": messages}
        try:
            response = httpx.post(self._url, json=body, headers=self._headers, timeout=MODEL_TIMEOUT)
            response.raise_for_status()
            text = response.json()["choices"][0]["message"]["content"]
        except httpx.HTTPStatusError as error:
            hint = ": check OPENAI_API_KEY" if error.response.status_code in {401, 403} else ""
            raise ModelError(f"{self._url} answered {error.response.status_code}{hint}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ModelError(f"{self._url} did not answer ({error}): check OPENAI_BASE_URL") from None
        except (ValueError, LookupError, TypeError):
            raise ModelError(f"{self._url} did not answer with a chat completion: check OPENAI_BASE_URL") from None
        if not isinstance(text, str):
            raise ModelError(f"{self.name} answered without text")
        return text


class Chatbot:
    def __init__(self, memory: Memory, library: Library, model: ChatModel | None) -> None:
        self._memory = memory
        self._library = library
        self._model = model

    def answer(self, session_id: str, question: str) -> JSON:
        """Stores the question, then the answer with its evidence, and returns the message that holds the answer."""
        turns = self._turns(session_id) if self._model else []
        self._memory.append(session_id, "user", question)
        started = time.perf_counter()
        hits = self._library.search(question, RETRIEVED)
        latency_ms = round((time.perf_counter() - started) * 1000, 3)
        prompt = hits[:IN_PROMPT]
        answer = self._model.answer(question, prompt, turns) if self._model else extract(question, prompt)
        return self._memory.append(session_id, "assistant", answer.text, evidence(question, hits, answer, latency_ms))

    def _turns(self, session_id: str) -> list[Turn]:
        messages = self._memory.latest(session_id, REMEMBERED)
        turns = [Turn(message["sender"], message["content"]) for message in messages]
        return [turn for turn in turns if turn.sender in {"user", "assistant"} and turn.content]
