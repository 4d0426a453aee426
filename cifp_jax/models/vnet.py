"""V-Net: five resolutions, skips added; 9,448,866 parameters in 3D at its default width."""

import flax.linen as nn
from jaxtyping import Array, Float

from cifp_jax.models import layers
from cifp_jax.models.layers import Features, Keys

_ENCODER = (1, 2, 3, 3, 3)
_DECODER = (3, 3, 2, 1)


class ConvBlock(nn.Module):
    """`depth` times convolution, normalisation, ReLU."""

    features: int
    depth: int
    normalization: str
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"], train: bool) -> Array:
        for _ in range(self.depth):
            x = layers.Conv(self.features)(x)
            x = layers.normalize(x, self.normalization, self.axis_name, train=train)
            x = nn.relu(x)
        return x


class Resample(nn.Module):
    """A change of resolution (`Down` or `Up`), normalisation, ReLU."""

    layer: type[nn.Module]
    features: int
    normalization: str
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"], train: bool) -> Array:
        x = self.layer(self.features)(x)
        return nn.relu(layers.normalize(x, self.normalization, self.axis_name, train=train))


class VNet(nn.Module):
    """V-Net without residuals, as the field's LA experiments use it.

    Attributes:
      classes: channels of the logits, background included.
      filters: channels of the five resolutions.
      dropout: rate of channel dropout at the bottleneck and before the output.
      normalization: one of `layers.NORMALIZATIONS`.
      axis_name: pmapped axis over which batch statistics are shared.
    """

    classes: int = 2
    filters: tuple[int, ...] = (16, 32, 64, 128, 256)
    dropout: float = 0.5
    normalization: str = "batch"
    axis_name: str | None = None

    def setup(self) -> None:
        f, norm = self.filters, (self.normalization, self.axis_name)
        self.encoder = [ConvBlock(n, d, *norm) for n, d in zip(f, _ENCODER, strict=True)]
        self.down = [Resample(layers.Down, n, *norm) for n in f[1:]]
        self.up = [Resample(layers.Up, n, *norm) for n in f[-2::-1]]
        self.decoder = [ConvBlock(n, d, *norm) for n, d in zip(f[-2::-1], _DECODER, strict=True)]
        self.head = layers.Conv(self.classes, window=1)

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
            x = block(self.down[i - 1](x, train) if i else x, train)
            features.append(x)
        features[-1] = layers.dropout(features[-1], self.dropout, keys, 0, channels=True)
        return tuple(features)

    def decode(
        self, features: Features, *, train: bool, keys: Keys | None = None
    ) -> Float[Array, "b *spatial k"]:
        """Logits from the feature maps of `encode`."""
        x = features[-1]
        for up, block, skip in zip(self.up, self.decoder, features[-2::-1], strict=True):
            x = block(up(x, train) + skip, train)
        return self.head(layers.dropout(x, self.dropout, keys, 1, channels=True))

    def __call__(
        self, x: Float[Array, "b *spatial c"], *, train: bool, keys: Keys | None = None
    ) -> Float[Array, "b *spatial k"]:
        """Logits of images: `decode(encode(x))`."""
        return self.decode(self.encode(x, train=train, keys=keys), train=train, keys=keys)
