"""A page of HTML in one file: no network, no script, no other file.

The page itself tells a browser, by its Content-Security-Policy, to fetch nothing. All text given is
escaped here.
"""

import base64
import io
import string
from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1d2330; --soft: #5b6475; --line: #dde1e8;
  --card: #f5f7fa; --mark: #14559e; }
@media (prefers-color-scheme: dark) { :root { --page: #14171d; --text: #e6e9ef; --soft: #a0a9b8;
  --line: #323843; --card: #1d222b; --mark: #7db4f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0; }
h2 { margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { margin: 1.75rem 0 .5rem; }
p { margin: .4rem 0; } .soft, figcaption { color: var(--soft); font-size: .9rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: .75rem; }
.cards div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.cards b { display: block; font-size: 1.4rem; color: var(--mark); }
.scroll { overflow: auto; max-height: 32rem; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, .text :is(th, td) { text-align: left; } th[scope=row] { font-weight: normal; }
.text td { white-space: normal; } tr.strong > * { font-weight: bold; }
thead th { position: sticky; top: 0; background: var(--card); }
figure { margin: 0; padding: .75rem; background: var(--card); border-radius: .5rem; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%,
  24rem), 1fr)); align-items: start; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto .5rem; background: #fff; }
summary { cursor: pointer; }
"""

_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="soft">$subtitle</p>
</header>
<main>
$sections
</main>
</body>
</html>
""")


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    strong: Sequence[int] = (),
    text: bool = False,
) -> str:
    """A table that scrolls by itself; the first cell of a row names it.

    Args:
      head: of the columns.
      rows: as many cells in each.
      caption: below it.
      strong: indices of the rows in bold.
      text: the cells are words, set to the left.
    """
    kind = ' class="text"' if text else ""
    lines = [f'<div class="scroll" tabindex="0"><table{kind}>']
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines.append(f"<thead><tr>{cells}</tr></thead><tbody>")
    for i, (name, *values) in enumerate(rows):
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        mark = ' class="strong"' if i in strong else ""
        lines.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{cells}</tr>')
    # Below the box, not in it, where a wide table would carry it out of sight.
    below = f'<p class="soft">{escape(caption)}</p>' if caption else ""
    return "\n".join([*lines, f"</tbody></table></div>{below}"])


def picture(kind: str, content: bytes, alt: str, caption: str) -> str:
    """A picture with its caption.

    Args:
      kind: png or svg+xml.
      content: of the picture's file.
      alt: what is said of it where it cannot be seen.
      caption: below it.
    """
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img src="data:image/{kind};base64,{data}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def drawing(figure: Figure, alt: str, caption: str) -> str:
    """A matplotlib figure as a picture that is sharp at any size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return picture("svg+xml", buffer.getvalue(), alt, caption)


def pictures(each: Sequence[str]) -> str:
    """Pictures side by side, as many as there is room for."""
    return f'<div class="pictures">{"".join(each)}</div>'


def cards(figures: Sequence[tuple[str, str]]) -> str:
    """Figures to be seen first: pairs of what it is and its value."""
    each = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in figures)
    return f'<div class="cards">{each}</div>'


def heading(level: int, text: str) -> str:
    """A heading of a level from 2 (a section) on."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """One paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def folded(title: str, content: str) -> str:
    """Content that a click on its title shows."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """The whole page; sections are what the functions above give."""
    return _PAGE.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        style=_STYLE,
        sections="\n".join(sections),
    )
