"""What compiled programs send, and what that costs: worked out by hand."""

import importlib

import pytest

from benchmarks import gpu_program, pod
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


GPU_PROGRAM = """HloModule jit_step

%fused (p: f32[4]) -> f32[4] {
  ROOT %n = f32[4]{0} negate(%p)
}

%body.1 (p: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %p = (s32[], bf16[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[8]{0} get-tuple-element(%p), index=1
  %f = bf16[8]{0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %t = (s32[], bf16[8]{0}) tuple(%i, %f)
}

ENTRY %main.2 (x.1: f32[4,2], w.1: f32[3]) -> f32[4] {
  %x.1 = f32[4,2]{1,0} parameter(0), sharding={replicated}
  %w.1 = f32[3]{0} parameter(1)
  %c = (f32[4]{0}, u8[10]{0}) custom-call(%x.1, %w.1), custom_call_target="__cudnn$convForward"
  %r = f32[4]{0} get-tuple-element(%c), index=0
  %l = (s32[], bf16[8]{0}) while(%s), condition=%cond.1, body=%body.1, metadata={}
  ROOT %o = f32[4]{0} fusion(%r, %w.1), kind=kLoop, calls=%fused
}
"""


def test_kernels_of_a_gpus_program():
    # The convolution reads 8 and 3 numbers and writes 4 and ten bytes; one turn of the loop reads
    # and writes 8 numbers of two bytes; the last kernel reads 4 and 3 numbers and writes 4.
    expected = ((8 + 3 + 4) * 4 + 10) + 2 * 8 * 2 + (4 + 3 + 4) * 4
    assert gpu_program.count(GPU_PROGRAM) == (3, expected, 1)
    with pytest.raises(ValueError, match="no entry computation"):
        gpu_program.count("HloModule empty")
