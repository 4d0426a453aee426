"""Batch statistics of unchanged images: against NumPy, and against passes in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import export
from cifp_jax.data import sources, splits
from cifp_jax.data.phantom import write_phantoms
from cifp_jax.inference.batch_stats import estimate_batch_stats
from cifp_jax.inference.weights import Weights, load_weights, save_weights
from cifp_jax.models import make_network
from tests.support.networks import TwoStages
from tests.support.steps import quick

NETWORKS = {
    "acdc": {"name": "unet", "classes": 4, "filters": (2, 2, 4, 4, 4)},
    "la": {"name": "vnet", "classes": 2, "filters": (2, 2, 2, 2, 2)},
}
PATCH = {"acdc": (32, 32), "la": (32, 32, 16)}


def batches(count, shape, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(i, 1 + i, shape).astype(np.float32) for i in range(count)]


def started(model, shape):
    image = jnp.zeros((1, *shape[1:]))
    return quick(lambda key: model.init(key, image, train=False))(jax.random.key(0))


def test_after_one_batch_a_network_predicts_it_as_training_sees_it():
    model, shape = TwoStages(), (4, 16, 16, 1)
    variables = started(model, shape)
    (batch,) = batches(1, shape)
    found = estimate_batch_stats(model, variables, [batch])
    new = {"params": variables["params"], "batch_stats": found}
    predicted = quick(lambda v, x: model.apply(v, x, train=False))
    trained = quick(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[0])
    seen = np.asarray(trained(variables, batch))
    np.testing.assert_allclose(predicted(new, batch), seen, atol=1e-4)
    before = np.asarray(predicted(variables, batch))
    assert np.abs(before - seen).max() > 0.01


def test_moments_of_the_first_layer_by_numpy():
    model, shape = TwoStages(), (3, 8, 8, 1)
    variables = started(model, shape)
    found = estimate_batch_stats(model, variables, batches(2, shape))["norms_0"]
    layer = jax.device_get(variables["params"]["convs_0"])
    first = []
    for batch in batches(2, shape):
        padded = np.pad(batch[..., 0], ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        first.append(np.tensordot(windows, layer["kernel"][:, :, 0], 2) + layer["bias"])
    mean = np.mean([x.mean((0, 1, 2)) for x in first], axis=0)
    variance = np.mean([x.var((0, 1, 2)) for x in first], axis=0)
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["var"], variance, rtol=1e-4)


@pytest.fixture(params=NETWORKS)
def saved(request, tmp_path):
    """A file of weights, and the folder of its data, of which it knows all but one patient."""
    kind = request.param
    root = tmp_path / "data"
    shape = (40, 40) if kind == "acdc" else (40, 40, 20)
    write_phantoms(root, len(PATCH[kind]), train=3, validation=1, shape=shape)
    split = splits.load_split(kind, root, labeled=1)
    names = list(dict.fromkeys(splits.patient(c.name) for c in split.labeled + split.unlabeled))
    facts = {
        "network": NETWORKS[kind],
        "data": {
            **{"name": kind, "patch_size": PATCH[kind], "downsample": 1, "channels": 1},
            **({"center_crop": 36, "interpolation": "linear"} if kind == "acdc" else {}),
        },
        "evaluation": {"largest_component": ""},
        "preparation": {},
        "method": "cifp",
        "step": 1,
        "training_list": {"labeled": names[:1], "unlabeled": names[1:-1]},
    }
    variables = started(make_network(**NETWORKS[kind]), (1, *PATCH[kind], 1))
    save_weights(tmp_path / "a.safetensors", Weights(variables, facts))
    return tmp_path / "a.safetensors", root, names


def test_export_changes_the_statistics_alone(saved, monkeypatch):
    file, root, names = saved
    read, read_case = [], sources.read_case

    def noted(case, **how):
        read.append((splits.patient(case.name), how["labels"]))
        return read_case(case, **how)

    monkeypatch.setattr(sources, "read_case", noted)
    out = file.parent / "b.safetensors"
    export.main([f"--weights={file}", f"--out={out}", f"--batch_stats_from={root}"])
    before, after = load_weights(file), load_weights(out)
    assert {name for name, _ in read} == set(names[:-1])  # none that it was not trained on
    assert not any(labels for _, labels in read)
    jax.tree.map(
        np.testing.assert_array_equal, before.variables["params"], after.variables["params"]
    )
    means = [jax.tree.leaves(w.variables["batch_stats"]) for w in (before, after)]
    assert all(
        np.isfinite(a).all() and not np.array_equal(a, b) for a, b in zip(*means, strict=True)
    )
    images = {"acdc": 1280, "la": 80}[before.facts["data"]["name"]]
    assert after.facts == before.facts | {"batch_stats": {"images": images}}
    again = file.parent / "c.safetensors"
    export.main([f"--weights={file}", f"--out={again}", f"--batch_stats_from={root}"])
    jax.tree.map(np.testing.assert_array_equal, load_weights(again).variables, after.variables)


@pytest.mark.parametrize("saved", ["acdc"], indirect=True)
def test_a_network_without_batch_statistics_is_named(saved):
    file, root, _ = saved
    weights = load_weights(file)
    network = weights.facts["network"] | {"normalization": "instance"}
    variables = started(make_network(**network), (1, *PATCH["acdc"], 1))
    save_weights(file, Weights(variables, weights.facts | {"network": network}))
    out = file.parent / "b.safetensors"
    with pytest.raises(SystemExit, match=r"no batch statistics.*Leave --batch_stats_from out"):
        export.main([f"--weights={file}", f"--out={out}", f"--batch_stats_from={root}"])
    assert not out.exists()


def test_data_of_other_patients_is_refused(saved):
    file, root, names = saved
    lists = {"acdc": "train_slices.list", "la": "train.list"}
    path = next(root / name for name in lists.values() if (root / name).is_file())
    kept = [line for line in path.read_text().splitlines() if splits.patient(line) != names[0]]
    path.write_text("\n".join(kept))
    out = file.parent / "b.safetensors"
    command = [f"--weights={file}", f"--out={out}"]
    with pytest.raises(SystemExit, match=rf"1 of \d patients .*\({names[0]}\)\. Name the folder"):
        export.main([*command, f"--batch_stats_from={root}"])
    with pytest.raises(SystemExit, match="this folder of data is missing"):
        export.main([*command, "--batch_stats_from=nowhere"])
    assert not out.exists()
