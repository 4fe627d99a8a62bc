"""How sessions, messages and the evidence behind an answer look on the console."""

from typing import Any

from memory import JSON

COLUMNS = "{:>8} {:>9}  {:<6} {:<5}  {:<12}  {}"


def show_session(session: JSON) -> None:
    star = "*" if session["is_favorite"] else " "
    changed, count = _when(session["updated_at"]), session["message_count"]
    print(f"{session['id']} {star} {changed} {count:>5}  {session['name'] or '-'}")


def show_message(message: JSON) -> None:
    text = "(redacted)" if message["redacted_at"] else message["content"]
    print(f"\n#{message['seq']} {message['sender']}, {_when(message['created_at'])}\n{text}")
    if message["evidence_documents"]:
        print(f"! {message['evidence_status']}: {', '.join(message['evidence_documents'])}")


def show_answer(message: JSON) -> None:
    print(message["content"])
    for document in _documents(message["context"]):
        if document.get("cited"):
            print(f"    [{document.get('rank')}] {_place(document)}")


def show_evidence(message: JSON) -> None:
    if documents := _documents(message["context"]):
        print(COLUMNS.format("rank", "score", "prompt", "cited", "chunk", "document"))
    for document in documents:
        rank, score, chunk = (str(document.get(name)) for name in ("rank", "score", "chunk_id"))
        used, cited = ("yes" if document.get(name) else "no" for name in ("in_prompt", "cited"))
        print(COLUMNS.format(rank, score, used, cited, chunk, _place(document)))


def show_document(document: JSON) -> None:
    reason = f": {document['reason']}" if document["reason"] else ""
    print(f"{document['document_id']} is {document['status']}{reason}")


def show_use(message: JSON) -> None:
    """An answer with how it used the document that was asked about."""
    where = f"{message['session_id']} #{message['seq']}"
    print(f"\n{where}, {_when(message['created_at'])}, its evidence is {message['evidence_status']}")
    if isinstance(message["context"], dict) and (question := message["context"].get("query")):
        print(f"    {question}")
    for use in message["uses"]:
        manner = [name for name in ("in_prompt", "cited") if use[name]] or ["retrieved only"]
        print(f"    chunk {use['chunk_id']}, rank {use['rank']}, score {use['score']}: {', '.join(manner)}")


def _documents(context: Any) -> list[JSON]:
    """A context may be any JSON, since other programs write to the same service: only what is understood is shown."""
    documents = context.get("documents") if isinstance(context, dict) else None
    return [document for document in documents if isinstance(document, dict)] if isinstance(documents, list) else []


def _place(document: JSON) -> str:
    """The document, and the first line of the chunk, which is its heading if it has one."""
    first_line = str(document.get("text", "")).partition("\n")[0]
    return f"{document.get('document_id')}: {first_line[:70]}"


def _when(time: str) -> str:
    return time[:16].replace("T", " ")
