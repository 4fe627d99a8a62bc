"""Splits folders of documents into chunks of about 600 characters and ranks them with BM25."""

import hashlib
import heapq
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, cast

from bm25s import BM25
from bm25s.tokenization import tokenize
from formats import READERS, Block

CHUNK_SIZE = 600
LONGEST_PARAGRAPH = 900  # up to here a paragraph stays whole, even if it fills a chunk alone
RETRIEVER = {"name": "bm25s", "version": version("bm25s")}

# CJK is written without spaces, so there each character is a word. Elsewhere a word has two letters or more, and ends
# at an underscore: "rate limit" finds RATE_LIMIT.
WORD = r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]{2,}"

# A list item, a quotation or a table row begins a new unit; any other end of line within a paragraph means nothing.
NEW_UNIT = re.compile(r"\n(?=\s*(?:[-*+>]\s|\d+[.)]\s|\|))")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^\sa-z])|(?<=[。！？])")  # noqa: RUF001 - full-width marks are meant
LINE_END = re.compile("\n")
SPACE = re.compile(" ")
CODE = ("```", "~~~")  # what a block of code begins and ends with


@dataclass(frozen=True)
class Chunk:
    document_id: str
    title: str
    heading: str
    paragraphs: tuple[str, ...]

    @cached_property
    def text(self) -> str:
        return "\n\n".join((self.heading, *self.paragraphs) if self.heading else self.paragraphs)

    @cached_property
    def chunk_id(self) -> str:
        """Made from the words, not from the position: an edit elsewhere in the document leaves it alone."""
        return hashlib.sha256(f"{self.document_id}\n{self.text}".encode()).hexdigest()[:12]


class Corpus(NamedTuple):
    chunks: list[Chunk]
    skipped: list[str]  # one line for each document that could not be read


class Hit(NamedTuple):
    chunk: Chunk
    score: float
    rank: int


def load(paths: Iterable[Path]) -> Corpus:
    chunks: dict[str, Chunk] = {}  # by id: a passage repeated within a document is kept once
    skipped: list[str] = []
    for path, document_id in _documents(paths):
        try:
            source = _read_text(path)
        except (OSError, ValueError) as error:
            skipped.append(f"{document_id}: {error}")
            continue
        blocks = list(READERS[path.suffix.lower()](source))
        chunks.update((chunk.chunk_id, chunk) for chunk in _split(document_id, blocks))
    return Corpus(list(chunks.values()), skipped)


def _documents(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Each document with its id, which is its path below the folder that holds the corpus: `docs/install.md`."""
    for root in (path.resolve() for path in paths):
        for path in sorted(_files(root)):
            if path.suffix.lower() in READERS:
                name = path.relative_to(root.parent).as_posix()
                yield path, os.fsencode(name).decode(errors="replace")  # a file's name need not be UTF-8, an id must


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]  # .git, .venv
        yield from (Path(folder, name) for name in names)


def _read_text(path: Path) -> str:
    try:
        source = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    if "\0" in source:
        raise ValueError("a binary file")
    return source


def _split(document_id: str, blocks: list[Block]) -> Iterator[Chunk]:
    title = next((block.text for block in blocks if block.level == 1), document_id.rpartition("/")[2])
    for heading, paragraphs in _sections(blocks, title):
        yield from (Chunk(document_id, title, heading, packed) for packed in _pack(paragraphs))


def _sections(blocks: list[Block], title: str) -> Iterator[tuple[str, list[str]]]:
    """The paragraphs below each heading, with the headings that lead there: `Install > Docker`."""
    path: list[Block] = []
    paragraphs: list[str] = []
    for block in [*blocks, Block(1, "")]:  # one more heading ends the last section
        if not block.level:
            paragraphs.append(block.text)
            continue
        yield " > ".join(above.text for above in path if above.text != title), paragraphs
        path = [*(above for above in path if above.level < block.level), block]
        paragraphs = []


def _pack(paragraphs: Iterable[str]) -> Iterator[tuple[str, ...]]:
    packed: list[str] = []
    for piece in (piece for paragraph in paragraphs for piece in _pieces(paragraph)):
        if packed and sum(map(len, packed)) + len(piece) > CHUNK_SIZE:
            yield tuple(packed)
            packed = []
        packed.append(piece)
    if packed:
        yield tuple(packed)


def _pieces(paragraph: str) -> list[str]:
    """Cuts a huge paragraph where it hurts least. The pieces of a code block are code blocks again."""
    if len(paragraph) <= LONGEST_PARAGRAPH:
        return [paragraph]
    if not paragraph.lstrip().startswith(CODE):
        return list(_cut(paragraph, (NEW_UNIT, SENTENCE_END, LINE_END, SPACE)))
    opening, *lines, closing = paragraph.split("\n")
    return [f"{opening}\n{piece}\n{closing}" for piece in _cut("\n".join(lines), (LINE_END, SPACE))]


def _cut(text: str, places: Sequence[re.Pattern[str]]) -> Iterator[str]:
    start = 0
    while len(text) - start > CHUNK_SIZE:
        middle, end = start + CHUNK_SIZE // 2, start + CHUNK_SIZE
        cuts = ([match.end() for match in place.finditer(text, middle, end)] for place in places)
        end = next((cut[-1] for cut in cuts if cut), end)
        yield text[start:end].rstrip()
        start = end
    yield text[start:].rstrip()


class Ranking:
    """BM25 over some texts. Those without a single word, which bm25s cannot weigh, are never found."""

    def __init__(self, texts: Sequence[str]) -> None:
        words = enumerate(_words(texts))
        self._known = {position: tokens for position, tokens in words if tokens}
        self._bm25 = BM25()  # type: ignore[no-untyped-call]
        if self._known:
            self._bm25.index(list(self._known.values()), show_progress=False)

    def search(self, question: str, limit: int) -> list[tuple[int, float]]:
        """The positions and scores of the best texts, best first; equal scores in the order of the texts."""
        (tokens,) = _words([question])
        if not (tokens and self._known):
            return []
        scores = zip(self._known, self._bm25.get_scores(tokens).tolist(), strict=True)
        return heapq.nlargest(limit, (pair for pair in scores if pair[1] > 0), key=lambda pair: pair[1])


def _words(texts: Sequence[str]) -> list[list[str]]:
    texts = [unicodedata.normalize("NFKC", text) for text in texts]
    words = tokenize(texts, token_pattern=WORD, stopwords="en_plus", return_ids=False, show_progress=False)
    return [[_singular(word) for word in text] for text in cast("list[list[str]]", words)]


def _singular(word: str) -> str:
    """Harman's S-stemmer: "queries" finds "query", and nothing else is touched."""
    if re.search("(?<![ea])ies$", word):
        return word[:-3] + "y"
    if re.search("(?<![aeo])es$", word):
        return word[:-1]
    return word[:-1] if re.search("[^us]s$", word) else word


class Library:
    """The chunks of a corpus, to be searched."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = chunks
        self._ranking = Ranking([f"{chunk.title}\n{chunk.text}" for chunk in chunks])

    def search(self, question: str, limit: int) -> list[Hit]:
        found = self._ranking.search(question, limit)
        return [Hit(self._chunks[at], round(score, 4), rank) for rank, (at, score) in enumerate(found, start=1)]
