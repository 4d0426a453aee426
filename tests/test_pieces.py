"""Folders travel in pieces."""

import pathlib
import subprocess

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]


def pieces(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    script = ["bash", ROOT / "experiments" / "pieces.sh", *arguments]
    return subprocess.run(script, cwd=folder, capture_output=True, text=True, check=False)


def test_a_folder_travels_in_pieces(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "runs" / "a b").mkdir(parents=True)
    there.mkdir()
    bytes_ = np.random.default_rng(0).bytes(250_000)
    (here / "runs" / "a b" / "state").write_bytes(bytes_)
    (here / "note").write_text("first")
    out = tmp_path / "out"
    assert pieces(here, "pack", str(out), "100K", "runs", "note").returncode == 0
    sizes = [p.stat().st_size for p in sorted(out.glob("piece.*"))]
    assert sizes[:2] == [102_400, 102_400]
    assert len(sizes) == 3
    for _ in range(2):
        assert pieces(there, "unpack", str(out)).returncode == 0
        assert (there / "runs" / "a b" / "state").read_bytes() == bytes_
        assert (there / "note").read_text() == "first"
    # A smaller archive leaves no piece of the larger one.
    assert pieces(here, "pack", str(out), "100K", "note").returncode == 0
    assert sorted(p.name for p in out.iterdir()) == ["SHA256SUMS", "piece.aa"]


def test_pieces_that_are_not_whole_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(bytes(300_000))
    assert pieces(tmp_path, "pack", "out", "100K", "a").returncode == 0
    (tmp_path / "a").unlink()
    piece = tmp_path / "out" / "piece.ab"
    piece.write_bytes(b"x" + piece.read_bytes()[1:])
    wrong = {"damaged": "out: a piece is missing or damaged", "gone": "out: a piece is missing"}
    for answer in wrong.values():
        result = pieces(tmp_path, "unpack", "out")
        assert result.returncode == 1
        assert answer in result.stderr
        assert not (tmp_path / "a").exists()
        piece.unlink(missing_ok=True)
    (tmp_path / "out" / "SHA256SUMS").unlink()
    assert "the archive is not whole" in pieces(tmp_path, "unpack", "out").stderr
    assert "b is missing" in pieces(tmp_path, "pack", "other", "1M", "b").stderr
    assert "give pack OUT SIZE PATH" in pieces(tmp_path, "pack", "out").stderr
