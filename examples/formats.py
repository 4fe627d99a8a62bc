"""Markdown, HTML and plain text, read into one thing: a run of headings and paragraphs."""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import NamedTuple

HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.+?)(?:[ \t]+#+)?[ \t]*$")
UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)

UNSEEN_TAGS = {"script", "style", "template", "nav", "footer", "svg"}
BLOCK_TAGS = {
    *("address", "article", "aside", "blockquote", "body", "dd", "details", "div", "dl", "dt", "figcaption", "figure"),
    *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html", "li", "main", "nav", "ol"),
    *("p", "pre", "section", "summary", "table", "title", "tr", "ul"),
}
LEAD_IN = {"li": "- ", "td": " ", "th": " ", "br": "\n"}


class Block(NamedTuple):
    level: int  # 1 to 6: a heading; 0: a paragraph
    text: str


def text_blocks(source: str) -> Iterator[Block]:
    yield from (Block(0, part.lstrip("\n").rstrip()) for part in re.split(r"\n\s*\n", source) if part.strip())


def markdown_blocks(source: str) -> Iterator[Block]:
    lines = iter(FRONT_MATTER.sub("", source).split("\n"))
    pending: list[str] = []
    for line in lines:
        if heading := HEADING.match(line):
            block = Block(len(heading[1]), heading[2])
        elif fence := FENCE.match(line):
            block = Block(0, "\n".join([line, *_until_closed(lines, fence[1])]))
        elif (underline := UNDERLINE.match(line)) and pending and pending[-1].strip():
            block = Block(1 if underline[1].startswith("=") else 2, pending.pop().strip())
        else:
            pending.append(line)
            continue
        yield from text_blocks("\n".join(pending))
        yield block
        pending = []
    yield from text_blocks("\n".join(pending))


def _until_closed(lines: Iterator[str], fence: str) -> Iterator[str]:
    """The rest of a code block, closed even where the file is not: blank lines and # comments in it are code."""
    for line in lines:
        if line.strip().startswith(fence):
            break
        yield line
    yield fence


def html_blocks(source: str) -> Iterator[Block]:
    page = _Page()
    page.feed(source)
    page.close()
    page.end_block("")  # the last paragraph of a page that does not close it
    yield from page.blocks


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Block] = []
        self._parts: list[str] = []
        self._unseen = 0  # how many elements around us are not meant to be read

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag in BLOCK_TAGS:
            self.end_block("")
        self._unseen += tag in UNSEEN_TAGS
        self.handle_data(LEAD_IN.get(tag, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCK_TAGS:
            self.end_block(tag)
        if tag in UNSEEN_TAGS and self._unseen:
            self._unseen -= 1

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._parts.append(data)

    def end_block(self, tag: str) -> None:
        text = "".join(self._parts)
        self._parts = []
        if not text.strip(" \n-"):
            return
        if tag == "pre":
            self.blocks.append(Block(0, f"```\n{text.strip()}\n```"))
        else:
            level = 1 if tag == "title" else int(tag[1]) if re.fullmatch("h[1-6]", tag) else 0
            self.blocks.append(Block(level, " ".join(text.split())))


READERS: dict[str, Callable[[str], Iterator[Block]]] = {
    ".md": markdown_blocks,
    ".markdown": markdown_blocks,
    ".html": html_blocks,
    ".htm": html_blocks,
    ".txt": text_blocks,
    ".rst": text_blocks,
}
