"""U-Net: five resolutions, skips concatenated; 1,813,764 parameters in 2D with four classes."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cifp_jax.models import layers
from cifp_jax.models.layers import Features, Keys


class ConvBlock(nn.Module):
    """Two times convolution, normalisation and LeakyReLU (0.01), with dropout between the two."""

    features: int
    dropout: float
    number: int  # of its dropout layer
    normalization: str
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"], train: bool, keys: Keys | None) -> Array:
        for i in range(2):
            x = layers.Conv(self.features)(x)
            x = layers.normalize(x, self.normalization, self.axis_name, train=train)
            x = nn.leaky_relu(x, 0.01)
            if i == 0:
                x = layers.dropout(x, self.dropout, keys, self.number, channels=False)
        return x


class UNet(nn.Module):
    """U-Net, as the field's ACDC experiments use it.

    Attributes:
      classes: channels of the logits, background included.
      filters: channels of the five resolutions.
      dropout: rates in the five encoder blocks.
      normalization: one of `layers.NORMALIZATIONS`.
      axis_name: pmapped axis over which batch statistics are shared.
    """

    classes: int = 4
    filters: tuple[int, ...] = (16, 32, 64, 128, 256)
    dropout: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5)
    normalization: str = "batch"
    axis_name: str | None = None

    def setup(self) -> None:
        f, norm = self.filters, (self.normalization, self.axis_name)
        self.encoder = [
            ConvBlock(n, p, i, *norm) for i, (n, p) in enumerate(zip(f, self.dropout, strict=True))
        ]
        self.reduce = [layers.Conv(n, window=1) for n in f[-2::-1]]
        self.decoder = [ConvBlock(n, 0.0, len(f) + i, *norm) for i, n in enumerate(f[-2::-1])]
        self.head = layers.Conv(self.classes)

    def encode(
        self, x: Float[Array, "b *spatial c"], *, train: bool, keys: Keys | None = None
    ) -> Features:
        """Feature maps of the five resolutions, full resolution first.

        Args:
          x: images; each side a multiple of 16.
          train: normalise with the statistics of this batch instead of the running ones.
          keys: one PRNG key an example for dropout; None: no dropout.

        Raises:
          ValueError: a side that the strides do not divide.
        """
        layers.check_size(x.shape[1:-1], 16)
        features = []
        for i, block in enumerate(self.encoder):
            x = block(layers.max_pool(x) if i else x, train, keys)
            features.append(x)
        return tuple(features)

    def decode(
        self, features: Features, *, train: bool, keys: Keys | None = None
    ) -> Float[Array, "b *spatial k"]:
        """Logits from the feature maps of `encode`."""
        x = features[-1]
        for reduce, block, skip in zip(self.reduce, self.decoder, features[-2::-1], strict=True):
            x = block(jnp.concatenate([skip, layers.upsample(reduce(x))], axis=-1), train, keys)
        return self.head(x)

    def __call__(
        self, x: Float[Array, "b *spatial c"], *, train: bool, keys: Keys | None = None
    ) -> Float[Array, "b *spatial k"]:
        """Logits of images: `decode(encode(x))`."""
        return self.decode(self.encode(x, train=train, keys=keys), train=train, keys=keys)
