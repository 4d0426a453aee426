"""A page read back by a parser: balanced tags, escaped text, nothing from elsewhere."""

import base64
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

from matplotlib.figure import Figure

from cifp_jax.reports import html

WILD = """<script>alert("1")</script> & 'quotes' $title {brace}"""
EMPTY = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects tags with their attributes and all text; fails where a tag is not closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(content)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_text_is_escaped_wherever_it_is_given():
    table = html.table([WILD], [[WILD, WILD]], caption=WILD, strong=[0])
    picture = html.picture("png", b"x", WILD, WILD)
    texts = [html.heading(2, WILD), html.paragraph(WILD), html.folded(WILD, table)]
    sections = [*texts, html.cards([(WILD, WILD)]), html.pictures([picture])]
    reader = Reader(html.page(WILD, WILD, sections))
    assert not reader.all("script")
    # Title twice, subtitle, heading, paragraph, summary, caption, 3 cells, card twice, figcaption.
    assert reader.text.count(WILD) == 13
    assert reader.all("img")[0]["alt"] == WILD


def test_the_page_forbids_a_browser_to_fetch():
    reader = Reader(html.page("a", "b", []))
    policy = next(m["content"] for m in reader.all("meta") if "http-equiv" in m)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_table_marks_its_rows():
    reader = Reader(html.table(["a", "b"], [["x", "1"], ["y", "2"]], strong=[1]))
    assert [row.get("class") for row in reader.all("tr")] == [None, None, "strong"]
    assert [cell.get("scope") for cell in reader.all("th")] == ["col", "col", "row", "row"]


def test_a_drawing_is_a_picture_that_holds_its_file():
    figure = Figure()
    figure.subplots().plot([1, 2])
    (image,) = Reader(html.drawing(figure, "alt", "caption")).all("img")
    kind, _, data = str(image["src"]).partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
