"""Splitting documents into chunks, and ranking them."""

import os
import re
import sys
from pathlib import Path

import pytest
from retrieval import LONGEST_PARAGRAPH, Chunk, load

from app.tests.rag_bot.documents import GUIDE, search


def read(folder: Path, name: str, source: str) -> list[Chunk]:
    (folder / name).write_text(source, encoding="utf-8")
    return load([folder / name]).chunks


def test_markdown_is_split_at_its_headings(folder: Path) -> None:
    chunks = load([folder / "guide.md"]).chunks
    assert [(chunk.heading, chunk.paragraphs) for chunk in chunks] == [
        ("", ("Welcome to the guide.",)),
        ("Installing", ("Run the installer:", "```bash\n# not a heading\n\n./install --prefix /opt\n```")),
        ("Installing > On Windows", ("Use the **setup** program.",)),
        ("Cleaning up", ("Sessions are kept for thirty days. A session that is a favorite is kept for ever.",)),
    ]
    assert {(chunk.document_id, chunk.title) for chunk in chunks} == {("guide.md", "The Guide")}


def test_html_is_read_as_a_reader_sees_it(folder: Path) -> None:
    chunks = load([folder / "page.html"]).chunks
    assert [(chunk.title, chunk.heading, chunk.paragraphs) for chunk in chunks] == [
        ("Manual", "Gears & Wheels", ("Gears turn slowly. Wheels do not.",)),
        (
            "Manual",
            "Gears & Wheels > Oil",
            ("- use oil", "- use RATE_LIMIT", "```\na = 1\n  b = 2\n```", "Part Price", "The last words"),
        ),
    ]


def test_paragraphs_are_packed_into_chunks_of_about_600_characters(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {number} " + "word " * 40 for number in range(20)]
    chunks = read(tmp_path, "long.txt", "\n\n".join(paragraphs))
    assert [paragraph for chunk in chunks for paragraph in chunk.paragraphs] == [text.strip() for text in paragraphs]
    assert {len(chunk.paragraphs) for chunk in chunks} == {2}


@pytest.mark.parametrize(
    ("paragraph", "piece"),
    [
        (" ".join(f"One sentence follows {number}." for number in range(400)), r"One [^\0]*\."),
        ("\n".join(f"- item {number} of a list" for number in range(400)), r"- item [^\0]*of a list"),
        ("".join(f"日本語の文章{number}。" for number in range(1_000)), "日[^\0]*。"),
        (" ".join(f"word{number}" for number in range(2_000)), r"word\d[^\0]*\d"),
        ("".join(f"{number:05}" for number in range(2_000)), r"\d+"),
    ],
    ids=["sentences", "list", "no spaces", "no sentences", "no words"],
)
def test_a_huge_paragraph_is_cut_where_it_hurts_least(tmp_path: Path, paragraph: str, piece: str) -> None:
    pieces = [part for chunk in read(tmp_path, "huge.md", paragraph) for part in chunk.paragraphs]
    assert "".join("".join(pieces).split()) == "".join(paragraph.split())
    assert max(map(len, pieces)) <= LONGEST_PARAGRAPH
    assert all(re.fullmatch(piece, part) for part in pieces)


@pytest.mark.parametrize("end", ["\n```\n", ""], ids=["closed", "not closed"])
def test_the_pieces_of_a_huge_code_block_are_code_blocks(tmp_path: Path, end: str) -> None:
    lines = [f"    call({number}); // Once. Or twice." for number in range(400)]
    chunks = read(tmp_path, "code.md", "```c\n" + "\n".join(lines) + end)
    pieces = [part.split("\n") for chunk in chunks for part in chunk.paragraphs]
    assert len(pieces) > 10
    assert {(piece[0], piece[-1]) for piece in pieces} == {("```c", "```")}
    assert [line for piece in pieces for line in piece[1:-1]] == lines


def test_what_is_no_text_is_left_out_and_said(folder: Path) -> None:
    (folder / "empty.md").write_bytes(b"")
    (folder / "latin.txt").write_bytes("Küche".encode("latin-1"))
    (folder / "binary.txt").write_bytes(b"text\0text")
    (folder / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    (folder / ".git").mkdir()
    (folder / ".git" / "description.txt").write_text("Hidden")
    corpus = load([folder])
    assert {chunk.document_id for chunk in corpus.chunks} == {"manual/guide.md", "manual/page.html"}
    assert corpus.skipped == ["manual/binary.txt: a binary file", "manual/latin.txt: not UTF-8 text"]


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(folder: Path) -> None:
    plain = load([folder / "guide.md"])
    (folder / "guide.md").write_bytes(b"\xef\xbb\xbf" + GUIDE.replace("\n", "\r\n").encode())
    assert load([folder / "guide.md"]) == plain


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_a_file_name_that_is_not_utf8_makes_an_id_that_can_be_stored(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("Coffee")
    assert "manual/caf�.txt" in {chunk.document_id for chunk in load([folder]).chunks}


def test_chunk_ids_survive_an_edit_elsewhere_in_the_document(folder: Path) -> None:
    before = {chunk.chunk_id for chunk in load([folder]).chunks}
    (folder / "guide.md").write_text(GUIDE.replace("Welcome to the guide.", "Hello.\n\n## New\n\nA new section."))
    after = {chunk.chunk_id for chunk in load([folder]).chunks}
    assert len(before) == 6
    assert len(before - after) == 1
    assert len(after - before) == 2


def test_equal_passages_of_two_documents_are_two_chunks_and_of_one_document_one(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("The same words.")
    (tmp_path / "two.md").write_text("# A\nThe same words.\n# A\nThe same words.")
    ids = [(chunk.document_id.rpartition("/")[2], chunk.chunk_id) for chunk in load([tmp_path]).chunks]
    assert [document_id for document_id, _ in ids] == ["one.txt", "two.md"]
    assert len({chunk_id for _, chunk_id in ids}) == 2


@pytest.mark.parametrize(
    ("question", "heading"),
    [
        ("How long is a session kept?", "Cleaning up"),
        ("what is a FAVORITES session", "Cleaning up"),
        ("Do I need oil?", "Gears & Wheels > Oil"),
        ("rate limit", "Gears & Wheels > Oil"),
        ("setup on windows", "Installing > On Windows"),
    ],
)
def test_the_chunk_that_answers_is_ranked_first(folder: Path, question: str, heading: str) -> None:
    hits = search(folder, question)
    assert hits[0].chunk.heading == heading
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score > 0 for hit in hits)


@pytest.mark.parametrize("question", ["zeppelin", "what is the", "", "?!"])
def test_a_question_without_a_known_word_finds_nothing(folder: Path, question: str) -> None:
    assert search(folder, question) == []


@pytest.mark.parametrize(
    ("source", "question"),
    [
        ("Привет, мир", "ПРИВЕТ"),
        ("Cafe\u0301 au lait", "caf\u00e9"),
        ("東京は日本の首都です", "首都はどこ"),
        ("Der Fluß ist tief", "fluß"),
    ],
)
def test_other_scripts_are_found(folder: Path, source: str, question: str) -> None:
    (folder / "other.txt").write_text(source, encoding="utf-8")
    assert search(folder, question)[0].chunk.document_id == "manual/other.txt"


@pytest.mark.parametrize("source", ["", "?!", "the and of"])
def test_a_corpus_without_words_is_searched_in_vain(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty.txt").write_text(source)
    assert search(tmp_path, "anything") == []
