"""The guard against slowing down: its figures, and that it notices a step that was made worse."""

import jax
import pytest

from benchmarks import check
from cifp_jax.methods import METHODS
from cifp_jax.models import layers


def test_what_grows_by_more_than_a_twentieth_is_told():
    known = {"flops": 100.0, "bytes": 100.0, "host_transfers": 0.0}
    assert not check.grown({"flops": 105.0, "bytes": 50.0, "host_transfers": 0.0}, known)
    assert check.grown({"flops": 106.0, "bytes": 100.0}, known) == ["flops 100 -> 106"]
    assert check.grown({"host_transfers": 1.0}, known) == ["host_transfers 0 -> 1"]
    assert check.grown({"more": 1.0}, known) == ["more is new"]


def test_every_method_has_its_figures():
    steps = {f"{network} {method}" for network in ("unet", "vnet") for method in METHODS}
    assert set(check.known()) == steps | {"a run"}


# A method's passes are the same in 3D, whose layers are all in the steps of these two.
IN_3D = ("cifp", "supervised")


@pytest.mark.parametrize(
    ("network", "method"),
    [
        *(("unet", method) for method in sorted(METHODS)),
        *(("vnet", method) for method in IN_3D),
        *(
            pytest.param("vnet", method, marks=pytest.mark.slow)
            for method in sorted(METHODS.keys() - set(IN_3D))
        ),
    ],
)
def test_no_step_asks_for_more_than_before(network, method):
    assert not check.grown(check.measure(network, method), check.known()[f"{network} {method}"])


@pytest.mark.slow
def test_a_run_compiles_no_more_than_before(tmp_path):
    assert not check.grown(check.measure_run(tmp_path), check.known()["a run"])


def test_a_convolution_that_is_made_worse_is_told(monkeypatch):
    """Each is computed twice, with its kernel and the mirrored one."""
    convolve = layers.convolve
    monkeypatch.setattr(layers, "convolve", lambda x, k: convolve(x, k) + convolve(x, k[::-1]))
    found = check.grown(check.measure("unet", "supervised"), check.known()["unet supervised"])
    assert [line.split()[0] for line in found] == ["flops", "bytes"]


def test_a_step_that_calls_the_host_is_told(monkeypatch):
    convolve = layers.convolve

    def watched(x, kernel):
        jax.debug.callback(lambda _: None, x.ravel()[0])
        return convolve(x, kernel)

    monkeypatch.setattr(layers, "convolve", watched)
    found = check.measure("unet", "supervised")
    assert found["host_transfers"] == 19  # convolutions: two in each of nine blocks, and the head
