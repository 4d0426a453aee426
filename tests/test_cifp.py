"""CIFP's loss and its parts, on a network whose passes are counted."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import augmentation, parallel
from cifp_jax.mesh import DATA, make_mesh
from cifp_jax.methods import METHODS, cifp, fusion, supervised
from cifp_jax.methods.context import Context
from cifp_jax.methods.largest_component import keep_largest
from cifp_jax.methods.losses import one_hot, segmentation_loss
from tests.support.networks import THREE_CLASSES as CLASSES
from tests.support.networks import THREE_SIZE as SIZE
from tests.support.networks import make_network, make_params
from tests.support.steps import quick, settings_with

STEP = jnp.int32(50)
DEFAULTS = {"perturbation.stage": 2, "perturbation.gate": 0.0, "ramp_steps": 100}
PLAIN = {"perturbation.probability": 0.0, "fusion.gamma": 0.0}


def make_batch(labeled: int = 4, unlabeled: int = 4) -> dict:
    """As the strong recipe leaves it; unlabelled images are their sources, upside down."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, CLASSES, (labeled, SIZE, SIZE))
    label[: labeled // 2, : SIZE // 2] = 0
    image = lambda n: jnp.asarray(rng.normal(size=(n, SIZE, SIZE, 1)), jnp.float32)  # noqa: E731
    source = image(unlabeled)
    places = np.stack(np.meshgrid(np.arange(SIZE)[::-1], np.arange(SIZE), indexing="ij"))
    return {
        "labeled": {
            "image": image(labeled),
            "label": jnp.asarray(label, jnp.int32),
            "index": jnp.arange(labeled),
        },
        "unlabeled": {
            "image": source[:, ::-1],
            "strong": source[:, ::-1] + 0.1,
            "source": source,
            "places": jnp.asarray(np.stack([places] * unlabeled), jnp.float32),
            "index": jnp.arange(unlabeled),
        },
    }


def make(**settings):
    return settings_with(cifp.Settings, DEFAULTS | settings)


def evaluate(params, teacher, batch, axis_name=None, shards=1, **settings):
    return cifp.loss(
        make_network(params),
        make_network(teacher),
        batch,
        Context(jax.random.key(0), STEP, axis_name, shards),
        make(**settings),
    )


@functools.cache
def run(weak=False, **settings):
    """Loss, statistics, metrics and gradients of one step with a teacher unlike the student."""
    batch = make_batch()
    if weak:
        batch["unlabeled"] = {k: batch["unlabeled"][k] for k in ("image", "index")}

    def value(params, teacher):
        return evaluate(params, teacher, batch, **settings)

    step = quick(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))
    (total, (stats, metrics)), grads = step(make_params(0), make_params(6))
    return total, stats, {k: float(a / jnp.maximum(b, 1)) for k, (a, b) in metrics.items()}, grads


def logits_of(params, image):
    return make_network(params).forward(image, None, {"passes": jnp.zeros(())})[0]


def test_the_terms_add_up():
    total, _, metrics, _ = run()
    ramp = math.exp(-5 * 0.5**2)
    assert metrics["lambda"] == pytest.approx(ramp)
    want = metrics["supervised"] + ramp * metrics["consistency"]
    assert float(total) == pytest.approx(want, rel=1e-5)
    assert metrics["loss"] == pytest.approx(float(total))
    assert 0 < metrics["uncertainty"] < 1
    assert 0 < metrics["perturbed"] < 1
    assert 0 < metrics["pseudo_share_1"] + metrics["pseudo_share_2"] < 1


def test_without_consistency_it_is_supervised_training():
    total, _, _, grads = run(lambda_max=0.0)

    def value(params):
        return supervised.loss(
            make_network(params),
            make_network(params),
            make_batch(),
            Context(jax.random.key(0), STEP),
            supervised.Settings(),
        )[0]

    want, want_grads = quick(jax.value_and_grad(value))(make_params(0))
    np.testing.assert_allclose(total, want, rtol=1e-5)
    for name, grad in want_grads.items():
        np.testing.assert_allclose(grads[0][name], grad, rtol=1e-4, atol=1e-6)


def test_one_pass_over_both_streams_moves_the_statistics():
    assert float(run()[1]["passes"]) == 101


def test_no_gradient_reaches_the_teacher():
    grads = run()[3]
    assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(grads[1]))
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads[0]))


@pytest.mark.parametrize("criterion", ["ce_dice", "ce"])
def test_the_unlabelled_loss_is_that_of_the_carried_prediction(criterion):
    """The student learns, upside down, what the teacher says of the image as it is."""
    batch = make_batch()["unlabeled"]
    pseudo = jnp.argmax(logits_of(make_params(6), batch["source"]), axis=-1)[:, ::-1]
    target, logits = one_hot(pseudo, CLASSES), logits_of(make_params(0), batch["strong"])
    want = segmentation_loss(logits, target, 1.0, None, present_only=True)
    if criterion == "ce":
        want = -jnp.mean(jnp.sum(target * jax.nn.log_softmax(logits), axis=-1))
    metrics = run(**PLAIN, criterion=criterion)[2]
    assert metrics["consistency"] == pytest.approx(float(want), rel=1e-4)
    assert metrics["perturbed"] == 0


def test_only_the_largest_component_of_a_pseudo_label_is_kept():
    batch = make_batch()
    teacher = make_network(make_params(6))
    pseudo = jnp.argmax(cifp.predict_pseudo_labels(teacher, batch, make().fusion), axis=-1)
    for of in ("class", "foreground"):
        metrics = run(largest_component=of)[2]
        kept = keep_largest(pseudo, CLASSES, of)
        for k in range(1, CLASSES):
            assert metrics[f"pseudo_share_{k}"] == pytest.approx(float(jnp.mean(kept == k)))
            assert metrics[f"pseudo_share_{k}"] < float(jnp.mean(pseudo == k))


def test_uncertain_voxels_count_less():
    """By hand: the cross entropy weighted by exp(-2 H / log K) of the carried prediction."""
    batch = make_batch()["unlabeled"]
    probs = jax.nn.softmax(logits_of(make_params(6), batch["source"]))[:, ::-1]
    entropy = -jnp.sum(probs * jnp.log(probs), axis=-1) / math.log(CLASSES)
    weight = jnp.exp(-2 * entropy)
    log_probs = jax.nn.log_softmax(logits_of(make_params(0), batch["strong"]))
    values = -jnp.sum(one_hot(jnp.argmax(probs, axis=-1), CLASSES) * log_probs, axis=-1)
    want = jnp.sum(weight * values) / jnp.sum(weight)
    settings = {"perturbation.probability": 0.0, "fusion.gamma": 2.0, "criterion": "ce"}
    metrics = run(**settings)[2]
    assert metrics["consistency"] == pytest.approx(float(want), rel=1e-4)
    assert metrics["uncertainty"] == pytest.approx(float(entropy.mean()), rel=1e-4)


@pytest.mark.parametrize("kind", ["entropy", "mean"])
def test_the_members_are_fused_in_the_students_geometry(kind):
    batch, params = make_batch(), make_params(6)
    # A network that knows up from down, so that the two members differ.
    ramp = jnp.linspace(-2, 2, SIZE)[:, None, None] * jnp.array([1.0, 0.0, -1.0])
    plain = make_network(params)
    teacher = plain._replace(
        forward=lambda x, keys, stats: (plain.forward(x, keys, stats)[0] + ramp, stats)
    )
    source = batch["unlabeled"]["source"]
    there = jax.nn.softmax(logits_of(params, source) + ramp)[:, ::-1]
    here = jax.nn.softmax(logits_of(params, batch["unlabeled"]["image"]) + ramp)
    members = jnp.stack([there, here])
    assert float(jnp.abs(there - here).max()) > 0.5
    want = fusion.fuse(members, 0.25).probs if kind == "entropy" else members.mean(axis=0)
    got = cifp.predict_pseudo_labels(teacher, batch, fusion.Settings(kind=kind))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_labelled_features_perturb_the_unlabelled_ones():
    step = quick(functools.partial(evaluate, **{"perturbation.probability": 1.0}))
    batch = make_batch()
    before = step(make_params(0), make_params(6), batch)[1][1]
    batch["labeled"]["image"] = -batch["labeled"]["image"]
    after = step(make_params(0), make_params(6), batch)[1][1]
    np.testing.assert_array_equal(before["pseudo_share_1"], after["pseudo_share_1"])
    assert abs(float(before["consistency"][0] - after["consistency"][0])) > 1e-5


def test_under_the_weak_recipe_gray_values_are_perturbed_here():
    _, stats, metrics, grads = run(weak=True, **PLAIN)
    assert float(stats["passes"]) == 101
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    image = make_batch()["unlabeled"]["image"]
    pseudo = jnp.argmax(logits_of(make_params(6), image), axis=-1)
    target = one_hot(pseudo, CLASSES)
    as_it_is = segmentation_loss(
        logits_of(make_params(0), image), target, 1.0, None, present_only=True
    )
    assert abs(metrics["consistency"] - float(as_it_is)) > 1e-3
    assert metrics["pseudo_share_1"] == pytest.approx(float(target[..., 1].mean()), abs=1e-6)


def test_four_devices_give_the_gradient_of_one():
    batch = make_batch(8, 16)

    def value(params, batch, **layout):
        return evaluate(params, make_params(6), batch, **layout)

    step = functools.partial(jax.value_and_grad, has_aux=True)
    (want, (_, want_metrics)), want_grads = quick(step(value))(make_params(0), batch)
    (got, (_, metrics)), grads = jax.pmap(
        step(functools.partial(value, axis_name=DATA)),
        axis_name=DATA,
        in_axes=(None, 0),
    )(make_params(0), parallel.shard_batch(batch, "pmap", make_mesh()))
    np.testing.assert_allclose(got, np.full(4, want), rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a.sum(axis=0), b, rtol=1e-3, atol=1e-6),
        grads,
        want_grads,
    )
    for name, pair in want_metrics.items():
        np.testing.assert_allclose([x[0] for x in metrics[name]], pair, rtol=1e-4, err_msg=name)


def test_blocks_of_a_mesh_exchange_no_features():
    mesh = make_mesh()
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(DATA))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    step = jax.grad(lambda p, b: evaluate(p, p, b, shards=4)[0])
    meshed = quick(step, in_shardings=(whole, sharding), out_shardings=whole)
    text = meshed.lower(make_params(), make_batch(8, 16)).compile().as_text() or ""
    assert " all-reduce(" in text
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert f" {collective}(" not in text, collective


def test_a_stage_that_the_network_lacks_is_named_when_traced():
    with pytest.raises(ValueError, match=r"perturbation\.stage is 4, but .* 1 to 3"):
        jax.eval_shape(
            functools.partial(evaluate, **{"perturbation.stage": 4}),
            *(make_params(), make_params(), make_batch()),
        )


def test_methods_by_name():
    assert METHODS["cifp"].loss is cifp.loss


def test_the_strong_recipe_gives_what_the_teacher_needs():
    strong = augmentation.Settings()
    batch = make_batch()
    plain = {s: {k: batch[s][k] for k in ("image", "index")} for s in batch}
    plain["labeled"]["label"] = batch["labeled"]["label"]
    made = jax.eval_shape(
        lambda b: augmentation.augment_batch(jax.random.key(0), b, (8, 8), strong), plain
    )
    assert made["unlabeled"].keys() == batch["unlabeled"].keys()
    assert made["unlabeled"]["source"].shape == (4, SIZE, SIZE, 1)
    assert made["unlabeled"]["places"].shape == (4, 2, 8, 8)
