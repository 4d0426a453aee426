"""A hook of the site: links that lead out of docs/ become the names of files of the repository."""

import pathlib
import re
from typing import Any

_DOCS = pathlib.Path(__file__).parent
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page; MkDocs calls it before it makes the page."""
    folder = (_DOCS / page.file.src_uri).parent

    def kept(found: re.Match[str]) -> str:
        text, link = found[1], found[2]
        if re.match(r"[a-z]+:", link):
            return found[0]
        target = (folder / link).resolve()
        if target.is_relative_to(_DOCS) and target.suffix in (".md", ".png"):
            return found[0]
        return f"{text} (`{target.relative_to(_DOCS.parent)}`)"

    return _LINK.sub(kept, markdown)
