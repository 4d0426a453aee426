"""Networks that are quick to compile, or to compute by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cifp_jax.models import layers
from cifp_jax.models.network import Network


class TwoStages(nn.Module):
    """Two resolutions, with batch norm and dropout: quick to compile."""

    axis_name: str | None = None

    def setup(self) -> None:
        self.convs = [layers.Conv(4), layers.Conv(8), layers.Conv(2)]
        self.norms = [layers.batch_norm(self.axis_name) for _ in range(2)]

    def encode(self, x, *, train, keys=None):
        features = []
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = layers.max_pool(x) if features else x
            x = nn.relu(norm(conv(x), use_running_average=not train))
            features.append(layers.dropout(x, 0.3, keys, len(features), channels=True))
        return tuple(features)

    def decode(self, features, *, train, keys=None):
        fine, coarse = features
        return self.convs[2](jnp.concatenate([fine, layers.upsample(coarse)], axis=-1))

    def __call__(self, x, *, train, keys=None):
        return self.decode(self.encode(x, train=train, keys=keys), train=train, keys=keys)


# Of `make_network`.
THREE_CLASSES, THREE_SIZE = 3, 16


def make_params(seed: int = 0) -> dict[str, jax.Array]:
    """Parameters of `make_network`."""
    rng = np.random.default_rng(seed)
    shapes = {"in": (3, 1, 4), "shift": (3, 4), "out": (3, 4, THREE_CLASSES)}
    drawn = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    return drawn | {"bias": jnp.zeros(THREE_CLASSES)}


def make_network(params: dict[str, jax.Array]) -> Network:
    """Three stages without normalisation: pooled images through a pointwise layer, and back.

    Its "statistics" count the passes that moved them: 1 an encoding, 100 a decoding.
    """

    def encode(x, keys, stats):
        features = []
        for i in range(3):
            x = x if i == 0 else x.reshape(len(x), x.shape[1] // 2, 2, -1, 2, 1).mean((2, 4))
            features.append(jnp.tanh(x @ params["in"][i] + params["shift"][i]))
        return tuple(features), {"passes": stats["passes"] + 1}

    def decode(features, keys, stats):
        logits = jnp.zeros((1, THREE_SIZE, THREE_SIZE, THREE_CLASSES)) + params["bias"]
        for i, z in enumerate(features):
            wide = jnp.repeat(jnp.repeat(z, 2**i, axis=1), 2**i, axis=2)
            logits = logits + wide @ params["out"][i]
        return logits, {"passes": stats["passes"] + 100}

    def forward(x, keys, stats):
        return decode(*(lambda f, s: (f, keys, s))(*encode(x, keys, stats)))

    return Network(encode, decode, forward, {"passes": jnp.zeros(())})


# Of `by_place`.
CLASSES = 3
VARIABLES = {
    "slope": np.array([0.7, -0.4, 0.1], np.float32),
    "bias": np.array([0.0, 0.3, -0.2], np.float32),
}


def by_place(variables, x):
    """Logits that depend on the place in the window, so that averaging over windows matters."""
    ramp = 1 + x.shape[1] * sum(
        (i + 1) * np.arange(n).reshape((-1,) + (1,) * (x.ndim - 3 - i)) / n
        for i, n in enumerate(x.shape[1:-1])
    )
    return x * variables["slope"] * ramp[..., None] + variables["bias"]


def parameter_count(model: nn.Module, rank: int) -> int:
    """Without computing any."""
    x = jax.ShapeDtypeStruct((1, *(16,) * rank, 1), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    return sum(p.size for p in jax.tree.leaves(variables["params"]))


def feature_shapes(model: nn.Module, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """What `encode` makes of an input of this shape, from the finest to the coarsest."""
    init = lambda x: model.init_with_output(  # noqa: E731
        jax.random.key(0), x, train=True, method="encode"
    )
    features, _ = jax.eval_shape(init, jax.ShapeDtypeStruct(shape, jnp.float32))
    return [f.shape for f in features]
