"""A small chatbot over a folder of documents. Its memory is RAG Chat Storage, which it reaches over HTTP.

    python examples/rag_bot.py ask docs/ "How do I change the rate limit?"
    python examples/rag_bot.py chat docs/ --session last
    python examples/rag_bot.py history last --evidence
    python examples/rag_bot.py withdraw docs/configuration.md --reason "It names a setting that is gone"
    python examples/rag_bot.py uses docs/configuration.md

RAG_CHAT_URL says where the service is (default http://localhost:8000) and API_KEY with which key to call it; both may
stand in ./.env. Answers are quoted from the documents; if OPENAI_MODEL is set, that chat model writes them instead, at
OPENAI_BASE_URL (default https://api.openai.com/v1) with OPENAI_API_KEY.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast
from uuid import UUID

from answers import Chatbot, ChatModel, ModelError
from dotenv import load_dotenv
from memory import Memory, StorageError
from retrieval import Library, load
from transcript import show_answer, show_document, show_evidence, show_message, show_session, show_use

SHOWN = 10  # messages shown when a session is resumed
NAME_LENGTH = 80

Command = Callable[[Memory, argparse.Namespace], None]


class UsageError(Exception):
    """What was asked for cannot be done. The text says why, in one line."""


def ask(memory: Memory, options: argparse.Namespace) -> None:
    question = _clean(options.question)
    if not question:
        raise UsageError("the question is empty")
    chatbot = _chatbot(memory, options.paths)
    session_id = _session_id(memory, options.session) if options.session else _start(memory, question)
    show_answer(chatbot.answer(session_id, question))
    print(f"\nsession {session_id}")


def chat(memory: Memory, options: argparse.Namespace) -> None:
    chatbot = _chatbot(memory, options.paths)
    session_id = _session_id(memory, options.session) if options.session else ""
    if session_id:
        show_session(memory.session(session_id))
        for message in memory.latest(session_id, SHOWN):
            show_message(message)
    print("Ask away; Ctrl-D ends the chat.")
    while (question := _read()) is not None:
        if question:
            session_id = session_id or _start(memory, question)
            try:
                show_answer(chatbot.answer(session_id, question))
            except ModelError as error:
                _complain(str(error))
    if session_id:
        print(f"To go on later: --session {session_id}")


def sessions(memory: Memory, options: argparse.Namespace) -> None:
    filters = {"is_favorite": "true" if options.favorites else "", "name": options.name}
    for session in memory.sessions(**{name: value for name, value in filters.items() if value}):
        show_session(session)


def history(memory: Memory, options: argparse.Namespace) -> None:
    session_id = _session_id(memory, options.session)
    show_session(memory.session(session_id))
    for message in memory.messages(session_id):
        show_message(message)
        if options.evidence:
            show_evidence(message)


def rename(memory: Memory, options: argparse.Namespace) -> None:
    show_session(memory.update_session(_session_id(memory, options.session), name=_clean(options.name)))


def favorite(memory: Memory, options: argparse.Namespace) -> None:
    show_session(memory.update_session(_session_id(memory, options.session), is_favorite=not options.off))


def delete(memory: Memory, options: argparse.Namespace) -> None:
    session_id = _session_id(memory, options.session)
    memory.delete_session(session_id)
    print(f"deleted {session_id} and its messages")


def withdraw(memory: Memory, options: argparse.Namespace) -> None:
    status = "current" if options.undo else "withdrawn"
    show_document(memory.mark(_clean(options.document), status, options.reason and _clean(options.reason)))


def uses(memory: Memory, options: argparse.Namespace) -> None:
    answers = list(memory.answers_from(_clean(options.document)))
    for answer in answers:
        show_use(answer)
    print(f"\nanswers that stood on {options.document}: {len(answers)}")


def _chatbot(memory: Memory, paths: Sequence[Path]) -> Chatbot:
    if missing := [str(path) for path in paths if not path.exists()]:
        raise UsageError(f"there is no {', '.join(missing)}: give a folder of documents")
    corpus = load(paths)
    for line in corpus.skipped:
        print(f"skipped {line}", file=sys.stderr)
    if not corpus.chunks:
        raise UsageError(f"no text in {', '.join(map(str, paths))}: give a folder of .md, .html or .txt files")
    documents = {chunk.document_id for chunk in corpus.chunks}
    print(f"{len(documents)} documents in {len(corpus.chunks)} chunks", file=sys.stderr)
    return Chatbot(memory, Library(corpus.chunks), ChatModel.from_environment())


def _session_id(memory: Memory, reference: str) -> str:
    if reference == "last":
        if newest := next(memory.sessions(), None):
            return str(newest["id"])
        raise UsageError("there is no session yet: `ask` and `chat` begin one")
    try:
        return str(UUID(reference))
    except ValueError:
        raise UsageError(f"{reference} is not a session id: take one from `sessions`, or write `last`") from None


def _start(memory: Memory, question: str) -> str:
    name = "".join(filter(str.isprintable, " ".join(question.split())))
    return str(memory.create_session(name[:NAME_LENGTH] or "Chat")["id"])


def _read() -> str | None:
    try:
        line = input("> ")
    except (EOFError, KeyboardInterrupt):
        print()
        return None
    if not sys.stdin.isatty():
        print(line)  # what is piped in would not be seen otherwise
    return _clean(line)


def _clean(text: str) -> str:
    """The text without what cannot be stored: NUL, and bytes of the console that were no UTF-8."""
    return text.replace("\0", "").encode(errors="replace").decode().strip()


def _complain(problem: str) -> None:
    print(f"rag_bot: {problem}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Command, about: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(run.__name__, help=about, description=about)
        subparser.set_defaults(run=run)
        return subparser

    asking = command(ask, "answer one question")
    for subparser in (asking, command(chat, "answer questions until Ctrl-D")):
        subparser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="a folder of documents, or a file")
        subparser.add_argument("--session", help="continue this session; `last` is the one used last")
    asking.add_argument("question", metavar="QUESTION")
    listing = command(sessions, "list the sessions, the last used first")
    listing.add_argument("--favorites", action="store_true", help="favorites only")
    listing.add_argument("--name", default="", help="only names that contain this")
    reading = command(history, "show the messages of a session")
    reading.add_argument("--evidence", action="store_true", help="with the chunks behind each answer")
    renaming = command(rename, "give a session another name")
    marking = command(favorite, "mark a session as a favorite")
    for subparser in (reading, renaming, marking, command(delete, "delete a session with its messages")):
        subparser.add_argument("session", metavar="SESSION", help="its id, or `last`")
    renaming.add_argument("name", metavar="NAME")
    marking.add_argument("--off", action="store_true", help="take the mark away")
    withdrawing = command(withdraw, "say that a document is wrong: every answer that stood on it shows so")
    withdrawing.add_argument("--reason", help="why, for whoever reads those answers")
    withdrawing.add_argument("--undo", action="store_true", help="it was right after all")
    for subparser in (withdrawing, command(uses, "list the answers that stood on a document, newest first")):
        subparser.add_argument("document", metavar="DOCUMENT", help="its id, as `history --evidence` shows it")
    return parser


def main() -> int:
    for stream in (sys.stdout, sys.stderr):
        # A character that the console cannot show should not end the program.
        cast("io.TextIOWrapper", stream).reconfigure(errors="replace")
    load_dotenv(".env", encoding="utf-8-sig")
    options = _parser().parse_args()
    try:
        with Memory.from_environment(announce=_complain) as memory:
            options.run(memory, options)
        sys.stdout.flush()
    except (UsageError, StorageError, ModelError) as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `history last | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
