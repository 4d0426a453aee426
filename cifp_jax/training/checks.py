"""What cannot work is said before a file is read, and before a step is compiled."""

import jax
import numpy as np

from cifp_jax import parallel
from cifp_jax.config import Config, Settings
from cifp_jax.data.layouts import LAYOUTS, find_layout
from cifp_jax.inference.sliding_window import check_windows
from cifp_jax.mesh import check_partitions
from cifp_jax.methods import METHODS
from cifp_jax.scans.preparation import Preparation
from cifp_jax.settings import from_mapping
from cifp_jax.training import build
from cifp_jax.training.state import TrainState
from cifp_jax.training.train_step import find_method


def check_config(config: Config, *, trains: bool = True) -> None:
    """Raises ValueError at the first setting that cannot work; reads no file.

    Only where it `trains` do the devices have to divide the batch.
    """
    given = {name: value for name, value in config.to_dict().items() if name != "methods"}
    from_mapping(Settings, given, "config")
    layout = find_layout(config.data.name)
    for name in build.trained_methods(config):
        find_method(name)
    for name in METHODS:
        build.method_settings(config, name)
    if len(config.model.filters) != 5 or min(config.model.filters) < 1:
        raise ValueError("config.model.filters must be 5 positive numbers, one a level.")
    rank = layout.rank
    sizes = {"data.patch_size": config.data.patch_size}
    if not layout.predicts_whole_slices:
        sizes["evaluation.stride"] = config.evaluation.stride
    for key, value in sizes.items():
        if len(value) != rank or min(value) < 1:
            raise ValueError(f"config.{key}={tuple(value)} must be {rank} positive numbers.")
    if not layout.predicts_whole_slices:
        check_windows(
            config.data.patch_size,
            config.evaluation.stride,
            config.evaluation.batch,
            config.model.classes,
        )
    if config.data.downsample > 1 and not layout.may_be_averaged_down:
        raise ValueError(
            f"config.data.downsample must be 1 for {config.data.name}: only 3D scans that are not "
            f"prepared at a spacing of your choice are averaged down. Choose a smaller patch, or "
            f"prepare the scans at a larger spacing."
        )
    for name in ("largest_side", "center_crop"):
        if config.data[name] and not layout.predicts_whole_slices:
            raise ValueError(
                f"config.data.{name} serves whole slices, such as those of acdc, and not "
                f"{config.data.name}, whose crops lie anywhere; set config.data.{name}=0."
            )
    if config.data.channels > 1 and not layout.may_have_channels:
        raise ValueError(
            f"config.data.channels must be 1 for {config.data.name}, whose images have no more."
        )
    if config.data.phantoms and not layout.phantoms:
        known = ", ".join(name for name, other in LAYOUTS.items() if other.phantoms)
        raise ValueError(
            f"config.data.phantoms are written for {known} only, and not for {config.data.name}; "
            f"set config.data.phantoms=0."
        )
    prepared = Preparation(**config.preparation.to_dict())
    if layout.preparation and prepared not in (Preparation(), layout.preparation):
        raise ValueError(
            f"config.preparation says how scans of your own were prepared; those of "
            f"{config.data.name} are always prepared in the same way. Leave it as it is."
        )
    for name in ("label_names", "label_values"):
        given = config.preparation[name]
        if given and len(given) != config.model.classes:
            raise ValueError(
                f"config.preparation.{name}={tuple(given)} must be one for each of the "
                f"{config.model.classes} classes, background first."
            )
    if config.data.on_device and not layout.may_lie_on_device:
        raise ValueError(
            f"config.data.on_device serves 3D scans whose crops are turned by quarter turns only, "
            f"such as those of la, and not {config.data.name}; set config.data.on_device=False."
        )
    if config.data.on_device and config.data.patch_size[0] != config.data.patch_size[1]:
        raise ValueError(
            f"config.data.patch_size={tuple(config.data.patch_size)}: on the device crops are "
            f"turned after they are cut, so their first two sides must be equal; make them so, "
            f"or set config.data.on_device=False."
        )
    if trains:
        space = config.spatial_partitions
        check_partitions(config.data.patch_size, space)
        parallel.check_batch(
            build.batch_sizes(config), build.batch_unit(config), config.parallel, space
        )


def check_step(config: Config, state: TrainState) -> None:
    """Traces one step without computing it, so that a setting that cannot work is named at once.

    Raises:
      ValueError: of the network (patch size) or the method (an unknown option).
    """
    jax.eval_shape(build.make_step(config), state, batch_shapes(config))


def batch_shapes(config: Config) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Shapes and types of a batch, over all devices, as the loader makes it."""
    data = config.data

    def array(size: int, dtype: type, *rest: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *rest), dtype)

    sides = build.crop_size(config)

    def stream(size: int) -> dict[str, jax.ShapeDtypeStruct]:
        image = array(size, np.float32, *sides, data.channels)
        return {"image": image, "index": array(size, np.int32)}

    labeled = stream(data.batch_labeled)
    labeled["label"] = array(data.batch_labeled, np.int32, *sides)
    return {"labeled": labeled, "unlabeled": stream(data.batch_unlabeled)}
