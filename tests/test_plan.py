"""Plans by hand: dimension, spacing, patch, intensities."""

import pytest

from cifp_jax.scans import plan_config
from cifp_jax.scans.plan import Machine, make_plan, step_bytes

GPU = Machine(24 * 2**30, 1, True)
CPU = Machine(8 * 2**30, 1, False)


def fingerprint(spacing=(1.0, 1.0, 1.0), box=(100, 90, 80), minimum=0.0, labeled=4):
    return {
        "labeled": labeled,
        "by_case": {"a": {"spacing": [float(s) for s in spacing], "box": [float(n) for n in box]}},
        "highest_minimum": [minimum],
        "foreground_intensity": [{"low": -50.0, "high": 200.0, "mean": 80.0, "std": 30.0}],
    }


def make(found, machine=GPU, channels=(), labels=None, **more):
    labels = labels or {0: "background", 1: "atrium"}
    return make_plan(
        found, channels=channels, channel_count=1, labels=labels, machine=machine, **more
    )


def test_alike_spacings_give_3d_at_their_median():
    planned = make(fingerprint(spacing=(0.6, 0.6, 1.2)))
    assert (planned.rank, planned.preparation.spacing) == (3, (0.6, 0.6, 1.2))
    assert planned.patch == (112, 96, 80)  # rounded up to what the strides divide
    assert planned.preparation.normalization == (("zscore",),)


@pytest.mark.parametrize(
    ("spacing", "box", "axes"),
    [
        ((1.5, 1.5, 10.0), (250, 220, 40), (2, 0, 1)),  # thick slices
        ((6.0, 1.0, 1.0), (40, 250, 220), (0, 1, 2)),  # sagittal ones
        ((1.0, 1.0, 1.0), (200, 20, 200), (1, 0, 2)),  # alike, but thin
    ],
)
def test_thick_or_thin_scans_give_2d_across_their_slices(spacing, box, axes):
    planned = make(fingerprint(spacing, box))
    assert (planned.rank, planned.preparation.axes) == (2, axes)
    assert planned.preparation.spacing == (0.0, spacing[axes[1]], spacing[axes[2]])
    assert len(planned.patch) == 2
    assert planned.batch == 12


def askew(*spacings):
    """A data set of scans whose slices lie nearest to several axes."""
    cases = {
        str(i): {"spacing": list(s), "box": [90.0 if side == max(s) else 200.0 for side in s]}
        for i, s in enumerate(spacings)
    }
    return fingerprint() | {"by_case": cases}


def test_slices_across_several_axes_stay_slices():
    """Of the heart they lie askew: what is nearest to them differs from patient to patient."""
    planned = make(askew((8.0, 1.5, 1.5), (1.4, 8.0, 1.4), (9.0, 1.5, 1.5), (1.5, 1.5, 1.5)))
    prepared = planned.preparation
    assert (planned.rank, prepared.slices, prepared.axes) == (2, "first", (0, 1, 2))
    assert prepared.spacing == (0.0, 1.5, 1.5)
    assert prepared.order((1.4, 8.0, 1.4)) == (1, 0, 2)
    assert "right axis (in 2 scans, and in 1 across another one)" in " ".join(planned.reasons)


def test_slices_of_volumes_come_last_and_are_tilted_less():
    planned = make(askew((2.5, 1.0, 1.0), (1.0, 1.0, 2.5), (2.5, 1.0, 1.0)))
    assert (planned.rank, planned.preparation.slices) == (3, "last")
    assert (planned.preparation.axes, planned.preparation.spacing) == ((1, 2, 0), (1.0, 1.0, 2.5))
    values = plan_config.settings(
        planned, identity="", labeled=1, validation=0, tested=False, bytes_on_disk=1
    )
    # tan 15 degrees is 0.268; of voxels 2.5 times as thick as wide, 0.107, which is 6.1 degrees.
    assert values["augmentation.strong.tilt"] == 6.1
    plain = make(fingerprint())
    assert plain.preparation.slices == ""


def test_the_user_decides():
    planned = make(fingerprint((1.5, 1.5, 10.0), (250, 220, 40)), rank=3)
    assert planned.rank == 3
    assert "as asked for" in planned.reasons[0]


@pytest.mark.parametrize("gigabytes", [1, 4, 16])
@pytest.mark.parametrize("thickness", [1.0, 10.0])
def test_what_is_planned_fits(gigabytes, thickness):
    memory = gigabytes * 2**30
    planned = make(fingerprint((1.0, 1.0, thickness), (500, 400, 300)), Machine(memory, 1, True))
    assert step_bytes(planned.patch, planned.batch, planned.filters) <= memory
    assert all(side % 16 == 0 for side in planned.patch)
    assert planned.batch % 2 == 0
    larger = [max(planned.patch) + 16 if s == max(planned.patch) else s for s in planned.patch]
    assert step_bytes(larger, planned.batch + 2, planned.filters) > memory / 2


def test_step_bytes_by_hand():
    # 2D, one resolution: 3 x 2 images x 256 pixels x 16 arrays x 8 channels x 4 bytes.
    assert step_bytes((16, 16), 2, (8,)) == 3 * 2 * 256 * 16 * 8 * 4
    # A second resolution of 16 channels holds a quarter of the pixels: as much as 4 more channels.
    assert step_bytes((16, 16), 2, (8, 16)) == 3 * 2 * 256 * 16 * 12 * 4


def test_every_device_gets_pairs():
    assert make(fingerprint(), Machine(10**12, 4, True)).batch == 8
    assert make(fingerprint((1, 1, 9.0)), Machine(10**12, 4, True)).batch == 16


def test_cpus_get_less():
    planned = make(fingerprint(box=(200, 200, 200)), CPU)
    assert planned.patch == (64, 64, 64)
    assert planned.steps < make(fingerprint()).steps


@pytest.mark.parametrize(
    ("name", "minimum", "fixed"),
    [("CT", 0.0, True), ("ct", 0.0, True), ("", -1000.0, True), ("MRI", -1000.0, False)],
)
def test_ct_keeps_its_scale(name, minimum, fixed):
    planned = make(fingerprint(minimum=minimum), channels=(name,) if name else ())
    rule = ("fixed", -50.0, 200.0, 80.0, 30.0) if fixed else ("zscore",)
    assert planned.preparation.normalization == (rule,)


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match=r"None of the cases has a mask.*Draw masks"):
        make(fingerprint(labeled=0))
    with pytest.raises(ValueError, match=r"one value only, \[0\]"):
        make(fingerprint(), labels={0: "background"})


def test_the_configuration_says_why():
    planned = make(fingerprint())
    values = plan_config.settings(
        planned, identity="0a", labeled=3, validation=0, tested=True, bytes_on_disk=10**9
    )
    text = plan_config.config_text(planned, values)
    lines = text.splitlines()
    comments = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    assert all(reason in comments for reason in planned.reasons)
    assert max(map(len, lines)) <= 100
    assert values["evaluation.stride"] == (56, 48, 40)
    assert (values["evaluation.report"], values["data.test_list"]) == ("last", "test.list")
