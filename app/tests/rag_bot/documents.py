"""A small folder of real documents."""

from pathlib import Path

from retrieval import Hit, Library, load

GUIDE = """---
draft: true
---
# The Guide

Welcome to the guide.

## Installing

Run the installer:

```bash
# not a heading

./install --prefix /opt
```

### On Windows

Use the **setup** program.

Cleaning up
-----------

Sessions are kept for thirty days. A session that is a favorite is kept for ever.
"""

PAGE = """<!doctype html><html><head><title>Manual</title><style>p { color: red }</style></head>
<body><nav><a href="/">Home</a></nav><h1>Gears &amp; Wheels</h1><p>Gears turn
   <em>slow</em>ly.<br>Wheels do not.<script>alert("never shown")</script>
<h2>Oil</h2><ul><li>use oil</li><li>use <code>RATE_LIMIT</code></li></ul><pre>
a = 1
  b = 2
</pre><table><tr><th>Part</th><td>Price</td></tr></table><p>The last words"""


def write_documents(place: Path) -> Path:
    folder = place / "manual"
    folder.mkdir()
    (folder / "guide.md").write_text(GUIDE)
    (folder / "page.html").write_text(PAGE)
    return folder


def search(folder: Path, question: str) -> list[Hit]:
    return Library(load([folder]).chunks).search(question, limit=8)
