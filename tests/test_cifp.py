import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import parallel
from cifp_jax.methods import METHODS, cifp, supervised
from cifp_jax.methods.context import Context
from tests.support.networks import THREE_CLASSES as CLASSES
from tests.support.networks import THREE_SIZE as SIZE
from tests.support.networks import make_network, make_params
from tests.support.steps import quick, settings_with

STEP = jnp.int32(50)


def make_batch(labeled: int = 4, unlabeled: int = 4) -> dict:
    rng = np.random.default_rng(1)
    label = rng.integers(0, CLASSES, (labeled, SIZE, SIZE))
    label[: labeled // 2, : SIZE // 2] = 0
    image = lambda n: jnp.asarray(rng.normal(size=(n, SIZE, SIZE, 1)), jnp.float32)  # noqa: E731
    return {
        "labeled": {
            "image": image(labeled),
            "label": jnp.asarray(label, jnp.int32),
            "index": jnp.arange(labeled),
        },
        "unlabeled": {"image": image(unlabeled), "index": jnp.arange(unlabeled)},
    }


DEFAULTS = {"perturbation.stages": (2,), "perturbation.tokens": 8, "ramp_steps": 100}


def make(**settings):
    return settings_with(cifp.Settings, DEFAULTS | settings)


def evaluate(params, teacher, batch, axis_name=None, shards=1, extra=None, **settings):
    return cifp.loss(
        make_network(params, extra),
        make_network(teacher, extra),
        batch,
        Context(jax.random.key(0), STEP, axis_name, shards),
        make(**settings),
    )


@functools.cache
def run(**settings):
    """Loss, statistics, metrics and gradients of one step with a teacher unlike the student."""
    extra = cifp.init(jax.random.key(1), (4, 4, 4), make(**settings))

    def value(params, teacher, extra):
        return evaluate(params, teacher, make_batch(), extra=extra, **settings)

    step = quick(jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True))
    (total, (stats, metrics)), grads = step(make_params(0), make_params(6), extra)
    return total, stats, {k: float(a / jnp.maximum(b, 1)) for k, (a, b) in metrics.items()}, grads


def test_the_terms_add_up():
    total, _, metrics, _ = run()
    ramp = math.exp(-5 * 0.5**2)
    assert metrics["lambda"] == pytest.approx(ramp)
    consistency = (metrics["strong"] + metrics["feature"]) / 2
    assert float(total) == pytest.approx(metrics["supervised"] + ramp * consistency, rel=1e-5)
    assert metrics["loss"] == pytest.approx(float(total))
    assert 0 < metrics["reliability"] <= 1
    assert 0 < metrics["ambiguity"] < 1
    assert 0 < metrics["flip_share"] < 1
    assert 0 < metrics["perturbed_weight"] < 1
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


@pytest.mark.parametrize(
    "settings", [{}, {"perturbation.kind": "learned", "perturbation.heads": 2, "lambda_max": 0.0}]
)
def test_statistics_come_from_the_clean_pass_alone(settings):
    # One encoding and one decoding of both streams; the other passes are dropped.
    assert float(run(**settings)[1]["passes"]) == 101


def test_no_gradient_reaches_the_teacher():
    # Not through the pseudo label, and not through gates and biases.
    grads = run(
        **{
            "fusion.strong_member": True,
            "perturbation.gate": "soft",
            "perturbation.beta": 1.0,
            "fusion.target": "soft",
        }
    )[3]
    assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(grads[1]))
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads[0]))


def test_alpha_0_flips_nothing():
    metrics = run(**{"perturbation.alpha": 0.0})[2]
    assert metrics["flip_share"] == 0
    assert metrics["fused_differs"] == 0
    assert metrics["perturbed_weight"] == pytest.approx(0.5, abs=1e-6)


def test_without_a_perturbation_the_strong_view_stands_for_both():
    total, _, metrics, _ = run(**{"perturbation.kind": "none"})
    assert "feature" not in metrics
    assert "flip_share" not in metrics
    want = metrics["supervised"] + metrics["lambda"] * metrics["strong"]
    assert float(total) == pytest.approx(want, rel=1e-5)


def test_a_surer_teacher_gives_a_higher_reliability():
    def reliability(scale: float) -> float:
        teacher = make_params(6)
        teacher["out"] = scale * teacher["out"]
        _, (_, metrics) = step(make_params(0), teacher, make_batch())
        total, count = metrics["reliability"]
        return float(total / count)

    step = quick(functools.partial(evaluate, **{"perturbation.kind": "none"}))
    # A teacher that says nothing has the entropy of its maximum: R = 1 / e.
    assert reliability(0.0) == pytest.approx(math.exp(-1), rel=1e-4)
    assert reliability(0.0) < reliability(1.0) < reliability(20.0)


def test_the_students_features_are_perturbed_by_labelled_ones():
    # A target of the weak view alone, so that labelled images act through the student only.
    step = quick(
        functools.partial(
            evaluate, **{"fusion.kind": "weak_only", "fusion.threshold": 0.0, "views.cutmix": 0.0}
        )
    )
    batch = make_batch()
    before = step(make_params(0), make_params(6), batch)[1][1]
    batch["labeled"]["image"] = -batch["labeled"]["image"]
    after = step(make_params(0), make_params(6), batch)[1][1]
    assert float(before["strong"][0]) == float(after["strong"][0])
    assert abs(float(before["feature"][0] - after["feature"][0])) > 1e-5


def test_boxes_of_labelled_images_bring_their_true_label():
    # The teacher says the same of both batches, so another loss is that of the boxes.
    settings = {"perturbation.kind": "none", "present_only": False}
    teacher = make_params(6)
    teacher["out"] = jnp.zeros_like(teacher["out"])
    step = quick(functools.partial(evaluate, **settings))
    batch = make_batch()
    before = step(make_params(0), teacher, batch)[1][1]
    batch["labeled"]["label"] = (batch["labeled"]["label"] + 1) % CLASSES
    after = step(make_params(0), teacher, batch)[1][1]
    assert float(before["pseudo_share_1"][0]) == float(after["pseudo_share_1"][0])
    assert abs(float(before["strong"][0] - after["strong"][0])) > 1e-3


def test_projections_are_trained_by_the_exchange_between_labelled_images():
    _, _, metrics, grads = run(
        lambda_max=0.0, **{"perturbation.kind": "learned", "perturbation.heads": 2}
    )
    assert metrics["exchange"] > 0
    assert sorted(grads[2]) == ["stage2"]
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads[2]))


@pytest.mark.parametrize(
    "settings",
    [
        {
            "perturbation.key_source": "bank",
            "perturbation.sampling": "class_balanced",
            "perturbation.beta": 1.0,
        },
        {
            "perturbation.key_source": "unlabeled",
            "perturbation.gate": "soft",
            "fusion.kind": "kl",
            "views.count": 2,
        },
        {
            "perturbation.key_source": "self",
            "perturbation.gate": "threshold",
            "fusion.kind": "mean",
            "views.cutmix": 0.0,
        },
        {
            "perturbation.key_source": "noise",
            "perturbation.gate": "random",
            "fusion.kind": "random",
            "fusion.target": "soft",
        },
        {
            "perturbation.kind": "channel_dropout",
            "fusion.kind": "weak_only",
            "fusion.threshold": 0.5,
        },
        {
            "perturbation.stages": (1, 3),
            "fusion.kind": "entropy_kl",
            "fusion.strong_member": True,
            "present_only": False,
        },
        {"views.cutmix_source": "unlabeled", "views.cutmix": 0.9},
    ],
)
def test_combinations_of_switches_train_and_change_the_loss(settings):
    total, _, metrics, grads = run(**settings)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    assert all(math.isfinite(v) for v in metrics.values())
    base = run()[2]
    assert metrics["supervised"] == pytest.approx(base["supervised"], rel=1e-6)
    assert abs(float(total) - base["loss"]) > 1e-6


@pytest.mark.parametrize(
    "settings",
    [
        {"views.count": 2, "fusion.strong_member": True},
        pytest.param(
            {
                "perturbation.kind": "learned",
                "perturbation.heads": 2,
                "perturbation.key_source": "unlabeled",
                "fusion.kind": "random",
            },
            marks=pytest.mark.slow,
        ),
    ],
)
def test_four_devices_give_the_gradient_of_one(settings):
    batch = make_batch(8, 16)
    extra = cifp.init(jax.random.key(1), (4, 4, 4), make(**settings))
    arguments = (make_params(0), extra)

    def value(trained, batch, **layout):
        params, extra = trained
        return evaluate(params, make_params(6), batch, extra=extra, **layout, **settings)

    step = functools.partial(jax.value_and_grad, has_aux=True)
    (want, (_, want_metrics)), want_grads = quick(step(value))(arguments, batch)
    (got, (_, metrics)), grads = jax.pmap(
        step(functools.partial(value, axis_name=parallel.AXIS)),
        axis_name=parallel.AXIS,
        in_axes=(None, 0),
    )(arguments, parallel.shard_batch(batch, "pmap", parallel.make_mesh()))
    np.testing.assert_allclose(got, np.full(4, want), rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a.sum(axis=0), b, rtol=1e-3, atol=1e-6),
        grads,
        want_grads,
    )
    for name, pair in want_metrics.items():
        np.testing.assert_allclose([x[0] for x in metrics[name]], pair, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("key_source", ["one", "bank"])
def test_blocks_of_a_mesh_exchange_no_features(key_source):
    mesh = parallel.make_mesh()
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(parallel.AXIS))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    step = jax.grad(
        lambda p, b: evaluate(p, p, b, shards=4, **{"perturbation.key_source": key_source})[0]
    )
    meshed = quick(step, in_shardings=(whole, sharding), out_shardings=whole)
    text = meshed.lower(make_params(), make_batch(8, 16)).compile().as_text() or ""
    assert " all-reduce(" in text
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert f" {collective}(" not in text, collective


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"views.cutmix_source": "bank"},
            "views.cutmix_source is 'bank'; known: labeled, unlabeled",
        ),
        ({"views.count": 3}, "views.count is 3; known: 1, 2"),
        ({"fusion.kind": "max"}, "fusion.kind is 'max'; known: entropy"),
        ({"fusion.target": "firm"}, "fusion.target is 'firm'; known: hard, soft"),
        ({"perturbation.kind": "mixup"}, "perturbation.kind is 'mixup'; known: cross_image"),
        ({"perturbation.stages": (4,)}, "must be some of 1 to 3"),
    ],
)
def test_unknown_values_are_named_when_traced(settings, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            functools.partial(evaluate, **settings), make_params(), make_params(), make_batch()
        )


def test_methods_by_name():
    assert METHODS["cifp"].loss is cifp.loss
    assert METHODS["supervised"].init(jax.random.key(0), (4,), supervised.Settings()) == {}
    assert METHODS["cifp"].init(jax.random.key(0), (4,), cifp.Settings()) == {}
