"""Networks, 2D or 3D by the rank of their input. A new one is one file and one line here."""

from collections.abc import Sequence

import flax.linen as nn

from cifp_jax.models.unet import UNet
from cifp_jax.models.vnet import VNet

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet, "vnet": VNet}


def make_network(
    *, name: str, classes: int, filters: Sequence[int], normalization: str = "batch"
) -> nn.Module:
    """The network of these settings, which are those of `config.model`."""
    return NETWORKS[name](classes=classes, filters=tuple(filters), normalization=normalization)
