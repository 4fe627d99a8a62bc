"""Contexts as the contract reads them: written a second time, from the contract and nothing else."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

STRINGS, NUMBERS, TRUTHS = ("document_id", "chunk_id", "version"), ("rank", "score"), ("cited", "in_prompt")


class Mark(NamedTuple):
    """What was said of a document last."""

    status: str
    version: str | None
    reason: str | None
    marked_at: str

    def terms(self) -> tuple[str, str | None, str | None]:
        return self.status, self.version, self.reason

    def verdict(self, version: str | None) -> str:
        """What it says of an answer that used this version."""
        if self.status == "withdrawn" and self.version in (None, version):
            return "withdrawn"
        if self.status == "superseded" and (self.version is None or self.version != version):
            return "stale"
        return "current"


def uses(context: Any) -> list[dict[str, Any]]:
    """The documents of a context, each as it was used, as far as that is understood."""
    listed = _listed(context)
    return [_use(item) for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def judged(context: Any, marks: Mapping[str, Mark]) -> dict[str, Any]:
    """`evidence_status` and `evidence_documents` of a message."""
    identified = [use for use in uses(context) if use["document_id"]]
    found = {"withdrawn": [], "stale": [], "current": []}  # type: dict[str, list[str]]
    for use in identified:
        mark = marks.get(use["document_id"])
        found[mark.verdict(use["version"]) if mark else "current"].append(use["document_id"])
    for status in ("withdrawn", "stale"):
        if found[status]:
            return {"evidence_status": status, "evidence_documents": list(dict.fromkeys(found[status]))}
    return {"evidence_status": "current" if identified else None, "evidence_documents": []}


def shown(context: Any, how: str) -> Any:
    """The context as `context=` wants it."""
    if how == "none":
        return None
    listed = _listed(context)
    if how == "full" or not isinstance(listed, list):
        return context
    items = [_without_text(item) if isinstance(item, dict) else item for item in listed]
    return items if isinstance(context, list) else {**context, "documents": items}


def warnings(context: Any, pointer: str) -> list[dict[str, str]]:
    """What is kept and not understood of the odd ones among the contexts that are drawn."""
    listed = _listed(context)
    if not isinstance(listed, list):
        return []
    at = pointer if isinstance(context, list) else f"{pointer}/documents"
    return [fault for place, item in enumerate(listed) for fault in _odd(item, f"{at}/{place}")]


def _odd(item: Any, at: str) -> Iterable[dict[str, str]]:
    if not isinstance(item, dict):
        return [{"field": at, "message": "is not an object"}]
    kinds = {**dict.fromkeys((*STRINGS, "text"), (str, "a string")), **dict.fromkeys(TRUTHS, (bool, "a boolean"))}
    return [
        {"field": f"{at}/{name}", "message": f"is not {kinds[name][1]}"}
        for name, value in item.items()
        if name in kinds and not isinstance(value, kinds[name][0])
    ]


def _listed(context: Any) -> Any:
    return context.get("documents") if isinstance(context, dict) else context


def _use(item: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {**dict.fromkeys(STRINGS, (str,)), **dict.fromkeys(NUMBERS, (int, float)), **dict.fromkeys(TRUTHS, (bool,))}
    known = {name: item[name] if type(item.get(name)) in kinds[name] else None for name in kinds}
    if "text" not in item and isinstance(item.get("page_content"), str):
        source = item.get("metadata", {}).get("source")
        own = {"document_id": source or item.get("id"), "chunk_id": item.get("id")}
        known = {name: own.get(name) if value is None else value for name, value in known.items()}
    return known


def _without_text(item: Mapping[str, Any]) -> dict[str, Any]:
    texts = ("text", "page_content")
    return {name: value for name, value in item.items() if name not in texts or not isinstance(value, str)}
