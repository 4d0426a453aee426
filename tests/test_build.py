"""Settings that cannot work are named before anything is computed or written."""

import pytest

from cifp_jax import parallel
from cifp_jax.data.phantom import write_phantoms
from cifp_jax.mesh import make_mesh
from cifp_jax.training import build, checks, loop, scoring
from tests.support.runs import small


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "ACDC"
    write_phantoms(folder, 2, train=3, validation=1, shape=(40, 40))
    return folder


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        ("model.name", "wnet", "config.model.name is 'wnet'; known: unet, vnet"),
        ("data.name", "mri", "known: la, acdc"),
        ("method.name", "cipf", "known: ad_mt, bcp, cifp, cps"),
        ("methods.cifp.perturbation.gate", 2.0, "perturbation.gate is 2.0, but must be from 0 to"),
        ("methods.bcp.alpha", -1.0, "config.methods.bcp.alpha is -1.0"),  # also where it is unused
        ("parallel", "tpu", "known: jit, pmap, none"),
        ("evaluation.weights", "mean", "known: ema, student"),
        ("evaluation.report", "first", "known: last, best"),
        ("evaluation.largest_component", "yes", "known: '', class, foreground, both"),
        ("evaluation.empty", "nan", "known: diagonal, literature"),
        ("training.skip_at_most", -1, "training.skip_at_most is -1, but must be at least 0"),
        ("spatial_partitions", 2, "spatial_partitions=2 cannot cut"),
        ("training.accumulate", 3, "batch_labeled=2 cannot be cut into multiples of 3"),
        ("ema.decay", 1.0, "config.ema.decay is 1.0, but must be at least 0 and below 1"),
        ("optimizer.learning_rate", -1.0, "config.optimizer.learning_rate is -1.0"),
        ("data.labeled", 0, "config.data.labeled is 0, but must be at least 1"),
        ("model.classes", 1, "config.model.classes is 1, but must be at least 2"),
        ("evaluation.batch", 0, "config.evaluation.batch is 0, but must be at least 1"),
        ("seed", -1, "config.seed is -1, but must be at least 0"),
        ("data.patch_size", (32,), "must be 2 positive numbers"),
        ("data.downsample", 0, "config.data.downsample is 0, but must be at least 1"),
        ("data.downsample", 2, "config.data.downsample must be 1 for acdc"),
        ("data.channels", 2, "config.data.channels must be 1 for acdc"),
        ("preparation.canonical", True, "those of acdc are always prepared in the same way"),
        ("data.name", "volumes", "must be 3 positive numbers"),
        ("data.on_device", True, "not acdc; set config.data.on_device=False"),
        ("training.steps", 0, "config.training.steps is 0, but must be at least 1"),
    ],
)
def test_a_setting_that_cannot_work_is_named(key, value, answer, root):
    config = small(root)
    checks.check_config(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match="config") as error:
        checks.check_config(config)
    assert answer in str(error.value)


def test_a_run_is_evaluated_on_devices_that_do_not_divide_its_batch(root):
    config = small(root)
    config.data.batch_labeled = 3
    checks.check_config(config, trains=False)


def test_a_device_needs_whole_pairs_where_images_are_mixed_in_pairs(root):
    def unit(**settings) -> int:
        config = small(root)
        config.update_from_flattened_dict(settings)
        return build.batch_unit(config)

    assert unit() == 1  # the partners of CIFP are labelled images
    assert unit(**{"method.name": "unimatch", "training.accumulate": 3}) == 6
    assert unit(**{"method.name": "ad_mt", "methods.ad_mt.cutmix_source": "labeled"}) == 1
    assert unit(**{"method.name": "crossmatch", "methods.crossmatch.cutmix": 0.0}) == 1
    assert unit(**{"method.name": "bcp"}) == 2
    assert unit(**{"method.name": "supervised"}) == 1
    assert unit(compare=("supervised", "unimatch")) == 2


def test_scans_on_the_device_want_square_crops_and_room(tmp_path, monkeypatch):
    write_phantoms(tmp_path, 3, train=3, validation=1, shape=(24, 20, 16))
    config = small(tmp_path, name="la", on_device=True, patch_size=(16, 16, 16), validation=1)
    config.model.update(name="vnet", classes=2)
    checks.check_config(config)
    split, mesh = build.make_split(config), make_mesh()
    scans = build.make_scans(config, split, mesh)
    assert {k: v.shape for k, v in scans.items()} == {
        "image": (3, 24, 20, 16),
        "label": (2, 24, 20, 16),
    }
    monkeypatch.setattr(parallel, "free_memory", lambda: 2**10)
    with pytest.raises(ValueError, match=r"3 scans of 24 x 20 x 16 .*on_device=False"):
        build.make_scans(config, split, mesh)
    config.data.on_device = False
    assert build.make_scans(config, split, mesh) is None
    config.data.update(on_device=True, patch_size=(16, 32, 16))
    with pytest.raises(ValueError, match="first two sides must be equal"):
        checks.check_config(config)
    config.data.name = "volumes"
    with pytest.raises(ValueError, match="not volumes"):
        checks.check_config(config)


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        ("downsample", 2, "config.data.downsample must be 1 for volumes"),
        ("phantoms", 4, "written for la, acdc only, and not for volumes"),
    ],
)
def test_what_prepared_scans_do_not_allow(key, value, answer, root):
    config = small(root, name="volumes", patch_size=(16, 16, 16), channels=2)
    checks.check_config(config)
    config.data[key] = value
    with pytest.raises(ValueError, match=answer):
        checks.check_config(config)


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        ("data.labeled", 99, "cannot give 99 labelled"),
        ("data.patch_size", (30, 32), r"\(32, 32\)"),
        ("methods.cifp.fusion.kind", "nope", "known: none, entropy, mean"),
        ("methods.cifp.perturbation.stage", 6, "1 to 5"),
    ],
)
def test_training_stops_before_it_writes(key, value, answer, root, tmp_path):
    config = small(root)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=answer):
        loop.train(config, build.make_split(config), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_windows_that_would_leave_gaps_are_named_before_the_training(root):
    config = small(root, name="volumes", patch_size=(16, 16, 16))
    config.evaluation.stride = (18, 18, 4)
    with pytest.raises(ValueError, match=r"evaluation\.stride=\(18, 18, 4\).*leave gaps"):
        checks.check_config(config)


def test_evaluating_what_was_not_trained_says_so(root, tmp_path):
    config = small(root)
    with pytest.raises(FileNotFoundError, match="train it first"):
        scoring.score_run(config, build.make_split(config), tmp_path / "run")
    assert not list(tmp_path.iterdir())
