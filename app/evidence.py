"""What is understood of a retrieved context: which documents an answer stood on, and how it used each.

A context stays any JSON value. What is odd in it is kept, told in a warning and not understood; nothing is
refused. Understood are the fields of `CONTEXT` and `DOCUMENT`, and LangChain's own document object:
`page_content` is its text, `id` the chunk, `metadata.source` the document.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import orjson

from app.strict_json import JsonText, pointer

MOST_DOCUMENTS = 200
MAX_DOCUMENT_ID = 2_048
MOST_WARNINGS = 100

Steps = tuple[str | int, ...]
DocumentStatus = Literal["current", "superseded", "withdrawn"]
EvidenceStatus = Literal["current", "stale", "withdrawn"]

_STRING, _NUMBER, _BOOLEAN = ("a string", (str,)), ("a number", (int, float)), ("a boolean", (bool,))
_OBJECT, _LIST = ("an object", (dict,)), ("a list", (list,))

Kinds = Mapping[str, tuple[str, tuple[type, ...]]]

CONTEXT: Kinds = {
    "query": _STRING,
    "rewritten_query": _STRING,
    "retriever": _OBJECT,
    "index_version": _STRING,
    "embedding_model": _STRING,
    "latency_ms": _NUMBER,
    "documents": _LIST,
}
RETRIEVER: Kinds = {"name": _STRING, "version": _STRING}
DOCUMENT: Kinds = {
    "document_id": _STRING,
    "chunk_id": _STRING,
    "version": _STRING,
    "title": _STRING,
    "url": _STRING,
    "text": _STRING,
    "score": _NUMBER,
    "rerank_score": _NUMBER,
    "rank": _NUMBER,
    "in_prompt": _BOOLEAN,
    "cited": _BOOLEAN,
    "metadata": _OBJECT,
}
PER_USE = frozenset(("score", "rerank_score", "rank", "in_prompt", "cited"))
"""Fields that belong to the use of a document and not to the document."""


@dataclass(frozen=True, slots=True)
class ContextWarning:
    """Something of a context that was kept and not understood; `field` is a JSON Pointer."""

    field: str
    message: str


@dataclass(slots=True)  # a frozen one takes three times as long to make, and there are five an answer
class Document:
    """A document as it was retrieved, as far as it is understood; None is what is absent or odd."""

    place: int
    sent: dict[str, Any]
    text_key: str = "text"
    document_id: str | None = None
    chunk_id: str | None = None
    version: str | None = None
    title: str | None = None
    url: str | None = None
    text: str | None = None
    score: float | None = None
    rank: float | None = None
    in_prompt: bool | None = None
    cited: bool | None = None

    def digest(self) -> bytes:
        """What makes it the same document: sha256 of its identity and its text."""
        identity = (self.document_id, self.chunk_id, self.version, self.text, self.text_key)
        return hashlib.sha256(orjson.dumps(identity)).digest()


@dataclass(frozen=True, slots=True)
class Context:
    """A context as it was sent, and what is understood of it.

    `digests` has, by place, the documents whose text is stored once. None where a number has more than 64 bits:
    such a context is stored whole.
    """

    value: Any
    text: JsonText
    documents: list[Document]
    warnings: list[ContextWarning]
    digests: dict[int, bytes]

    def at(self, place: int) -> Document:
        """The document at this place of its list."""
        return next(document for document in self.documents if document.place == place)


def understand(value: Any, text: JsonText, steps: Steps = ()) -> Context:
    """The context `value` at `steps` of a body, of which `text` is the JSON: its documents and what is odd in it."""
    documents, warnings = read(value, steps)
    digests = {one.place: one.digest() for one in documents if one.text} if _fits_64_bits(value) else {}
    return Context(value, text, documents, warnings, digests)


def read(value: Any, steps: Steps = ()) -> tuple[list[Document], list[ContextWarning]]:
    """The documents of a context that are understood, and what is not."""
    warnings: list[ContextWarning] = []
    if isinstance(value, dict):
        retriever = _understood(value, CONTEXT, steps, warnings).get("retriever")
        _understood(retriever or {}, RETRIEVER, (*steps, "retriever"), warnings)
        steps = (*steps, "documents")
    listed = documents_of(value)
    if len(listed) > MOST_DOCUMENTS:
        warnings.append(ContextWarning(pointer(steps), f"holds more than {MOST_DOCUMENTS} documents"))
        listed = []
    documents = []
    for place, sent in enumerate(listed):
        if isinstance(sent, dict):
            documents.append(_document(place, sent, (*steps, place), warnings))
        else:
            warnings.append(ContextWarning(pointer((*steps, place)), "is not an object"))
    return documents, _bounded(warnings)


def read_document(sent: dict[str, Any]) -> Document:
    """One document that is stored, whatever is odd in it."""
    return _document(0, sent, (), [])


def documents_of(value: Any) -> list[Any]:
    """The list of documents in a context, of whatever its items are; empty where there is none."""
    listed = value.get("documents") if isinstance(value, dict) else value
    return listed if isinstance(listed, list) else []


def with_documents(value: Any, documents: Any) -> Any:
    """The context with another list of documents in the place of its own."""
    return documents if isinstance(value, list) else {**value, "documents": documents}


def digest_ref(digest: bytes) -> int:
    """The reference of a text that names no document."""
    return -(int.from_bytes(digest[:8], "big") >> 1) - 1


@lru_cache(4_096)  # asked four times for each document of an append
def document_ref(tenant_id: int, document_id: str) -> int:
    """The number under which a tenant's document is referred to: 63 bits of a hash, so that nothing is looked up.

    Negative, which tells it from the id of a stored text where both stand in one list.
    """
    return digest_ref(hashlib.sha256(b"%d\0" % tenant_id + document_id.encode()).digest())


def _document(place: int, sent: dict[str, Any], steps: Steps, warnings: list[ContextWarning]) -> Document:
    known = _understood(sent, DOCUMENT, steps, warnings)
    metadata = known.pop("metadata", {})
    known.pop("rerank_score", None)
    text_key = "text"
    if sent.get("text") is None and isinstance(sent.get("page_content"), str):
        text_key = "page_content"
        known = {**_of_langchain(sent, metadata), **known}
    document_id = known.get("document_id")
    if document_id is not None and not 1 <= len(document_id) <= MAX_DOCUMENT_ID:
        del known["document_id"]
        said = next(field for field, value in _ids(sent, metadata) if value == document_id)
        message = f"does not have 1 to {MAX_DOCUMENT_ID} characters"
        warnings.append(ContextWarning(pointer((*steps, *said)), message))
    return Document(place, sent, text_key, **known)


def _ids(sent: dict[str, Any], metadata: dict[str, Any]) -> list[tuple[Steps, Any]]:
    """Where a document's id may stand, and what stands there."""
    return [
        (("document_id",), sent.get("document_id")),
        (("metadata", "source"), metadata.get("source")),
        (("id",), sent.get("id")),
    ]


def _of_langchain(sent: dict[str, Any], metadata: dict[str, Any]) -> dict[str, str]:
    own, source = sent.get("id"), metadata.get("source")
    found = {
        "text": sent["page_content"],
        "chunk_id": own,
        "document_id": source if isinstance(source, str) and source else own,
    }
    return {name: value for name, value in found.items() if isinstance(value, str) and value}


def _understood(sent: dict[str, Any], kinds: Kinds, steps: Steps, warnings: list[ContextWarning]) -> dict[str, Any]:
    """The fields of `sent` that are of the kind they should be."""
    known = {}
    for name, value in sent.items():
        if value is None or name not in kinds:
            continue
        kind, types = kinds[name]
        if type(value) in types:  # the exact type: True is no number
            known[name] = value
        else:
            warnings.append(ContextWarning(pointer((*steps, name)), f"is not {kind}"))
    return known


def _bounded(warnings: list[ContextWarning]) -> list[ContextWarning]:
    if len(warnings) <= MOST_WARNINGS:
        return warnings
    more = ContextWarning("", f"{len(warnings) - MOST_WARNINGS} more of its fields are not understood")
    return [*warnings[:MOST_WARNINGS], more]


def _fits_64_bits(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
