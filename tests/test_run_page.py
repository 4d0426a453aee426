"""The report of a run, read back by a parser and by a real browser."""

import http.server
import json
import pathlib
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib import image as mpimg
from matplotlib.patches import Rectangle

from cifp_jax.evaluation.calibration import reliability
from cifp_jax.evaluation.evaluate import Evaluation, Row
from cifp_jax.evaluation.metrics import Score
from cifp_jax.reports.run_page import draw_curves, draw_reliability, read_curves, write_report
from cifp_jax.reports.summaries import summarize, write_evaluation

WILD = "<i>worst & 'co'"
FACTS = {
    "checkpoint": "best",
    "step": 700,
    "weights": "ema",
    "seed": 3,
    "method": "cifp",
    "hardware": "2 CPU cores",
}
CONFIG = {
    "data": {"name": "acdc", "root": "/home/somebody/data"},
    "method": {"name": "cifp"},
    "methods": {"cifp": {"perturbation": {"tau": 0.25, "stages": [3, 4, 5]}}},
}


def evaluation(*dice):
    """Cases with the given Dice (%) of both classes; three of four voxels are predicted right."""
    names = ["middle", WILD, "good"][: len(dice)]
    rows = [
        Row(name, Score(k, value, value / 2, 100 - value, 1.0, value == 0), 0.5)
        for name, value in zip(names, dice, strict=True)
        for k in (1, 2)
    ]
    found = reliability(np.full((4, 2), (0.1, 0.9)), np.array([1, 1, 1, 0]))
    return Evaluation(tuple(rows), "diagonal", "", found)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with a validation and a test list, and a magenta picture of two cases."""
    folder = tmp_path_factory.mktemp("run")
    rows = [{"step": s, "loss": 1 / s} for s in range(1, 20)] + [{"step": 9, "validation/dice": 7}]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "metrics.jsonl").write_text(f'{text}{{"step": 20, "lo')  # killed while it wrote
    evaluations, written = {}, {}
    for checkpoint, name, dice in (
        ("last", "validation", (50.0, 0.0, 90.0)),
        ("best", "validation", (60.0, 0.0, 90.0)),
        ("best", "test", (70.0,)),
    ):
        key = f"{checkpoint}/{name}"
        facts = FACTS | {"list": name, "checkpoint": checkpoint, "reported": checkpoint == "best"}
        evaluations[key] = evaluation(*dice)
        written[key] = summarize(evaluations[key], facts)
        write_evaluation(evaluations[key], folder / "evaluation" / key, written[key])
    for case in (WILD, "middle"):
        picture = np.full((300, 200, 3), (1.0, 0.0, 1.0))
        mpimg.imsave(folder / "evaluation" / "best" / "validation" / f"{case}.png", picture)
    write_report(
        folder,
        config=CONFIG,
        summaries=written,
        evaluations=evaluations,
        overlays=folder / "evaluation",
    )
    return folder


@pytest.fixture(scope="module")
def content(workdir: pathlib.Path) -> str:
    return (workdir / "report.html").read_text(encoding="utf-8")


def text_of(content: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", content, flags=re.S).split())


def test_it_holds_what_a_reader_wants(content):
    text = text_of(content)
    for expected in (
        "cifp on acdc",
        "the best checkpoint, step 700, ema weights, seed 3",
        "50.00 ± 37.42",  # Dice of 60, 0 and 90
        "methods.cifp.perturbation.stages [3, 4, 5]",
        "calibration error 15.0 %",  # 0.9 sure, 3 of 4 right
        "jax 0.",
        "chosen by its Dice on these same cases",
    ):
        assert expected in text, expected
    assert "somebody" not in text
    # The test list, which a run is known by, stands first.
    assert text.index("Test: 1 cases") < text.index("Validation: 3 cases")


def test_worst_cases_stand_first(content):
    wild = "&lt;i&gt;worst &amp; &#x27;co&#x27;"
    cells = re.findall(r'<th scope="row">([^<]*)</th><td>([\d.]+)', content)
    assert cells[:4] == [
        ("middle", "70.00"),
        (wild, "0.00"),
        ("middle", "60.00"),
        ("good", "90.00"),
    ]
    captions = re.findall(r"<figcaption>([^<]*): Dice", content)
    assert captions == [wild, "middle"]
    assert "<i>" not in content


def test_it_is_one_file(content):
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>]*)""", content)
    assert len(sources) == 5  # two overlays, two diagrams, the curves
    assert {s.partition(",")[0] for s in sources} == {
        "data:image/png;base64",
        "data:image/svg+xml;base64",
    }
    assert "<script" not in content


@pytest.mark.parametrize(("log", "curves"), [('{"step": 1, "loss": 0.5}\n', 1), ("", 0)])
def test_a_run_without_cases_still_gets_its_report(log, curves, tmp_path: pathlib.Path):
    (tmp_path / "metrics.jsonl").write_text(log)
    write_report(tmp_path, config=CONFIG, summaries={}, evaluations={}, overlays=tmp_path)
    content = (tmp_path / "report.html").read_text()
    assert "No case was evaluated" in content
    assert content.count("<img") == curves


def test_cases_of_background_alone(tmp_path: pathlib.Path):
    empty = Evaluation(
        (Row("a", Score(1, 100.0, 100.0, 0.0, 0.0, False), 0.1),),
        "diagonal",
        "",
        reliability(np.array([[0.9, 0.1]]), np.array([0])),
    )
    summary = summarize(empty, FACTS | {"list": "test", "reported": True})
    key = "last/test"
    write_report(
        tmp_path,
        config=CONFIG,
        summaries={key: summary},
        evaluations={key: empty},
        overlays=tmp_path,
    )
    assert "hold any foreground" in (tmp_path / "report.html").read_text()


def test_curves_leave_out_a_line_that_was_cut_off(workdir):
    curves = read_curves(workdir / "metrics.jsonl")
    assert curves == {"loss": [(s, 1 / s) for s in range(1, 20)], "validation Dice %": [(9, 7)]}
    loss, dice = draw_curves(curves).axes
    assert (loss.get_ylabel(), dice.get_ylabel()) == tuple(curves)
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), curves["loss"])


def test_bars_of_the_diagram():
    found = reliability(np.full((4, 2), (0.1, 0.9)), np.array([1, 1, 1, 0])).describe()
    upper, lower = draw_reliability(found).axes
    (bar,), (share,) = upper.patches, lower.patches
    assert isinstance(bar, Rectangle)
    assert isinstance(share, Rectangle)
    assert bar.get_height() == 0.75
    assert bar.get_x() + bar.get_width() / 2 == pytest.approx(13.5 / 15)
    assert share.get_height() == 100


def browse(file: pathlib.Path, *flags: str) -> str:
    """Opens a file in headless Chromium and gives what that prints."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"needs a browser, none of {', '.join(names)} is installed")
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")
    command = [browser, "--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars"]
    command += [f"--disable-{name}" for name in quiet]
    command += [f"--user-data-dir={file.parent / 'profile'}", *flags, file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


PROBE = """<script>addEventListener("load", () => {
  document.title = JSON.stringify({
    widths: [...document.images].map(image => image.naturalWidth),
    fetched: performance.getEntriesByType("resource").map(entry => entry.name),
    overflow: document.documentElement.scrollWidth - innerWidth,
  });
});</script></head>"""


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Address of a picture on a server of this machine, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/away.png", asked
        server.shutdown()


def test_a_browser_shows_every_picture_and_fetches_nothing(content, elsewhere, tmp_path):
    """Even without its policy, in a window of a phone.

    A broken picture and one from elsewhere are added, to see that they would be noticed.
    """
    away, asked = elsewhere
    added = f'<img src="data:image/png;base64,AAAA"><img src="{away}"></main>'
    page = re.sub(r"<meta http-equiv[^>]*>", "", content.replace("</main>", added))
    file = tmp_path / "probe.html"
    file.write_text(page.replace("</head>", PROBE), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", browse(file, "--window-size=500,900", "--dump-dom"))
    assert title is not None
    found = json.loads(title[1])
    assert min(found["widths"][:5]) > 100
    assert found["widths"][5:] == [0, 0]
    assert [name for name in found["fetched"] if not name.startswith("data:")] == [away]
    assert asked == ["/away.png"]
    assert found["overflow"] <= 0


def test_under_its_policy_a_browser_shows_the_pictures_and_asks_nobody(
    content, elsewhere, tmp_path
):
    away, asked = elsewhere
    shot, file = tmp_path / "shot.png", tmp_path / "report.html"
    file.write_text(content.replace("</main>", f'<img src="{away}"></main>'), encoding="utf-8")
    browse(file, "--window-size=900,3000", f"--screenshot={shot}")
    assert asked == []
    pixels = np.rint(255 * mpimg.imread(shot)[..., :3])
    for color, of in (((255, 0, 255), "overlays"), ((31, 119, 180), "the diagram's bars")):
        assert (pixels == color).all(axis=-1).sum() > 2000, of
