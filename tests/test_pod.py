"""What compiled programs send, and what that costs: worked out by hand."""

import importlib

import pytest

from benchmarks import pod
from benchmarks.collectives import collective_bytes
from benchmarks.peaks import PEAKS
from experiments import pod_tables

PROGRAM = """
  %a = f32[2,3]{1,0:T(8,128)} all-reduce(%x), channel_id=1, replica_groups={{0,1}}
  %b = (f32[10]{0}, bf16[4,5]{1,0}) all-reduce-start(%y, %z), channel_id=2
  %c = (f32[10]{0}, bf16[4,5]{1,0}) all-reduce-done(%b)
  %d = (bf16[8]{0}, bf16[16]{0}, u32[], u32[]) collective-permute-start(%w)
  %e = bf16[16]{0} collective-permute-done(%d)
  %f = pred[7]{0} all-gather(%v), dimensions={0}
  %g = f32[9]{0} fusion(%all-reduce.5), kind=kLoop
"""


def test_bytes_of_collectives_are_those_of_their_results():
    assert collective_bytes(PROGRAM) == {
        "all-reduce": {"count": 2, "bytes": 2 * 3 * 4 + 10 * 4 + 4 * 5 * 2},
        "collective-permute": {"count": 1, "bytes": 16 * 2},
        "all-gather": {"count": 1, "bytes": 7},
    }


def test_a_ring_sends_each_byte_twice_but_for_a_chips_own_part():
    peaks = PEAKS["v5e"]._replace(interconnect_bytes_per_s=100.0)
    assert pod_tables.exchange(peaks, 50.0, 1) == 0
    assert pod_tables.exchange(peaks, 50.0, 4) == pytest.approx(2 * 3 / 4 * 0.5)


def test_programs_have_names_of_their_own():
    names = [cell.name for cell in pod.cells()]
    assert len(set(names)) == len(names)
    assert "v5e:2x4, la, bfloat16, 4 chips an image" in names
    assert all(cell.slice.split(":")[0] in {*PEAKS, "cpu"} for cell in pod.cells())


def test_a_program_that_takes_too_long_or_fails_is_an_error(monkeypatch):
    cell = next(pod.cells())
    assert pod.in_a_process(cell, 0.0) == {"error": "not compiled within 0 s"}


def test_slices_are_compiled_as_their_protocols_are_set():
    for protocol, remat in pod.REMAT.items():
        config = importlib.import_module(f"configs.{protocol}").get_config()
        assert config.training.remat == remat
