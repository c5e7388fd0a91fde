"""A preprocessor of mdbook: links to files of the repository outside of the book lead to where it is published."""

import json
import posixpath
import re
import sys

PUBLISHED = "https://github.com/wfhost/wfhost/blob/main/"


def published(chapter: dict) -> str:
    here = posixpath.dirname("docs/" + chapter["path"])

    def link(found: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(here, found[1]))
        inside = target.startswith("docs/") and target.endswith((".md", ".svg"))
        return found[0] if inside else f"]({PUBLISHED}{target}{found[2] or ''})"

    return re.sub(r"\]\((?![a-z]+:)([^)#\s]+)(#[^)\s]*)?\)", link, chapter["content"])


def visit(items: list) -> None:
    for item in items:
        if isinstance(item, dict) and (chapter := item.get("Chapter")):
            if chapter.get("path"):
                chapter["content"] = published(chapter)
            visit(chapter["sub_items"])


if sys.argv[1:2] == ["supports"]:
    sys.exit(0)
_, book = json.load(sys.stdin)
visit(book.get("items", book.get("sections", [])))
json.dump(book, sys.stdout)
