"""How a context is stored: each document once for all answers, and in each message how it was used.

A message keeps a form: its context with every document replaced by a list. `[i, use]` stands for the stored
document that `context_refs` names at index i, with the fields of this use: scores, rank, and what differs from the
document as it was first seen; where they are the first of USUAL, their values only. `[i, use, gone]` also names
fields that only the first one had. `[item]` is an item that is not split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.evidence import PER_USE, Document, documents_of, read_document, with_documents
from app.strict_json import JsonText

USUAL = ("score", "rank", "in_prompt", "cited")
"""Fields of a use whose names are not stored: they would be a third of a form, docs/decisions/0009-evidence.md."""

_USUAL = [set(USUAL[:number]) for number in range(len(USUAL) + 1)]


@dataclass(slots=True)  # a frozen one takes three times as long to make
class StoredDocument:
    """A document as it was first seen, with its text: what is stored once.

    `head` is its JSON up to where a use stands in it, `bare` the same without its text. As an object each of them would
    be ten for the garbage collector to visit.
    """

    id: int
    ref: int
    head: bytes
    bare: bytes
    document_id: str | None
    version: str | None

    @classmethod
    def parse(cls, id_: int, ref: int, body: str) -> "StoredDocument":
        value = orjson.loads(body)
        understood = read_document(value)
        bare = orjson.dumps(_without_text(value))
        return cls(id_, ref, _head(body.encode()), _head(bare), understood.document_id, understood.version)

    @property
    def value(self) -> dict[str, Any]:
        """The document itself, a new one each time."""
        value: dict[str, Any] = orjson.loads(self.head.removesuffix(b",") + b"}")
        return value

    @property
    def size(self) -> int:
        """In bytes, without what Python adds."""
        return len(self.head) + len(self.bare)


def _head(body: bytes) -> bytes:
    return b"{" if body == b"{}" else body[:-1] + b","


GONE = StoredDocument(0, 0, b"{", b"{", None, None)
"""Stands for a text that somebody deleted."""


def body(document: Document) -> JsonText:
    """What is stored of a document that nobody used before."""
    return JsonText(_body(document.sent).decode())


def _body(sent: Mapping[str, Any]) -> bytes:
    return orjson.dumps({k: v for k, v in sent.items() if k not in PER_USE})


def split(context: Any, stored: Mapping[int, tuple[int, StoredDocument]]) -> JsonText:
    """The form of a context; `stored` has the index and the stored document of each place that is split."""
    items = [
        _use(item, *stored[place]) if place in stored else [item] for place, item in enumerate(documents_of(context))
    ]
    return JsonText(orjson.dumps(with_documents(context, items)).decode())


def restore(form: Any, stored: Sequence[StoredDocument], *, with_texts: bool = True) -> Any:
    """The context that `form` was made of, equal to what was sent; `stored` has the documents that it names."""
    items = [_item(entry, stored, with_texts) for entry in documents_of(form)]
    return with_documents(form, items)


def rendered(form: Any, stored: Sequence[StoredDocument], *, with_texts: bool = True) -> Any:
    """The same for orjson to write: where every document is used as usual its JSON is put together as it stands."""
    entries = documents_of(form)
    usual = []
    for entry in entries:
        if len(entry) != 2 or type(entry[1]) is dict:  # noqa: PLR2004
            return restore(form, stored, with_texts=with_texts)
        usual.append(dict(zip(USUAL, entry[1], strict=False)))
    uses = orjson.dumps(usual)[1:-1].split(b"{")[1:]
    if len(uses) != len(entries):  # an odd score has braces of its own
        return restore(form, stored, with_texts=with_texts)
    parts = [b"["]
    for (index, use), text in zip(entries, uses, strict=True):
        head = stored[index].head if with_texts else stored[index].bare
        parts += (head if use else head.removesuffix(b","), text)
    parts.append(b"]")
    return with_documents(form, orjson.Fragment(b"".join(parts)))


def without_texts(context: Any) -> Any:
    """A context that was not split, with its documents' texts left out."""
    listed = documents_of(context)
    if not listed:
        return context
    return with_documents(context, [_without_text(item) for item in listed])


def unsplit(form: Any) -> list[Any]:
    """The items of a form's context that are not split."""
    return [entry[0] for entry in documents_of(form) if len(entry) == 1]


def _use(sent: dict[str, Any], index: int, stored: StoredDocument) -> list[Any]:
    if stored.head == _head(_body(sent)):
        use, gone = {k: v for k, v in sent.items() if k in PER_USE}, []
    else:
        first = stored.value
        use = {k: v for k, v in sent.items() if k in PER_USE or k not in first or _differ(v, first[k])}
        gone = [name for name in first if name not in sent]
    is_usual = len(use) < len(_USUAL) and use.keys() == _USUAL[len(use)]
    fields = [use[name] for name in USUAL[: len(use)]] if is_usual else use
    return [index, fields, gone] if gone else [index, fields]


def _differ(one: Any, other: Any) -> bool:
    """Whether they would be read as different; 1, 1.0 and true are."""
    if type(one) is str:
        return type(other) is not str or one != other
    return orjson.dumps(one) != orjson.dumps(other)


def _item(entry: list[Any], stored: Sequence[StoredDocument], with_texts: bool) -> Any:
    if len(entry) == 1:
        return entry[0] if with_texts else _without_text(entry[0])
    item = stored[entry[0]].value
    item.update(entry[1] if type(entry[1]) is dict else zip(USUAL, entry[1], strict=False))
    if len(entry) > 2:  # noqa: PLR2004
        for name in entry[2]:
            item.pop(name, None)
    return item if with_texts else _without_text(item)


def _without_text(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    return {k: v for k, v in item.items() if k not in ("text", "page_content") or not isinstance(v, str)}
