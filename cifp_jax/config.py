"""The settings that every configuration starts from, with their meaning and their range."""

import dataclasses
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from cifp_jax import augmentation
from cifp_jax.data.whole_slices import INTERPOLATIONS
from cifp_jax.methods import METHODS
from cifp_jax.models import NETWORKS
from cifp_jax.models.layers import NORMALIZATIONS
from cifp_jax.models.network import PRECISIONS
from cifp_jax.scans.preparation import Preparation
from cifp_jax.settings import Checked, setting, unknown

# A `ConfigDict`. Its keys are not known to a type checker, which would take each for any type.
Config: TypeAlias = Any


@dataclasses.dataclass(frozen=True)
class Data(Checked):
    """Which scans are read, and what is cut out of them."""

    name: str = setting(
        "", "The layout: la, acdc, pancreas, brats2019, prostate, mnms, slices or volumes."
    )
    root: str = setting("", "The folder that holds the lists.")
    identity: str = setting(
        "", "Of a data set of `prepare`, as its arrays say it too; empty: not compared."
    )
    labeled: int = setting(
        8, "Labelled patients (of LA: scans) from the start of the training list.", low=1
    )
    validation: int = setting(
        0,
        "Where there is no list of validation cases, as of LA: patients set aside from the end of "
        "the training list.",
        low=0,
    )
    test_list: str = setting("", "The file of test cases; empty: none.")
    channels: int = setting(1, "Channels of the images.", low=1)
    patch_size: tuple[int, ...] = setting(
        (256, 256), "Sides of what the network sees, each a multiple of 16.", unit="voxels"
    )
    largest_side: int = setting(
        0,
        "Whole slices, as those of ACDC, whose longer side has more pixels are shrunk until it has "
        "so many; 0: none.",
        low=0,
        unit="pixels",
    )
    center_crop: int = setting(
        0,
        "Of whole slices: the side of the middle that is seen; 0: all of them.",
        low=0,
        unit="pixels",
    )
    interpolation: str = setting("nearest", "How whole slices are resized.", options=INTERPOLATIONS)
    downsample: int = setting(
        1,
        "The factor by which 3D scans are averaged down; 1 for slices and data of `prepare`.",
        low=1,
    )
    batch_labeled: int = setting(12, "Labelled images in a batch, over all devices.", low=1)
    batch_unlabeled: int = setting(12, "Unlabelled images in a batch, over all devices.", low=1)
    workers: int = setting(0, "Processes of Grain that read; 0: threads of this process do.", low=0)
    cache_gb: float = setting(
        4.0, "Decoded scans that each process keeps in memory.", low=0, unit="GiB"
    )
    on_device: bool = setting(
        False, "Of LA and its like: whether scans lie in the device's memory and are cropped there."
    )
    phantoms: int = setting(
        0, "So many synthetic training cases are written to the root first, if it has none.", low=0
    )


@dataclasses.dataclass(frozen=True)
class Augmentation(Checked):
    """How images are changed before any method sees them."""

    name: str = setting(
        "weak",
        "The field's, drawn by the loader (weak), or that of config.augmentation.strong, for "
        "labelled and unlabelled images inside the step.",
        options=("weak", "strong"),
    )
    strong: augmentation.Settings = dataclasses.field(default_factory=augmentation.Settings)


@dataclasses.dataclass(frozen=True)
class Model(Checked):
    """The network."""

    name: str = setting("unet", "Of slices or of volumes.", options=tuple(NETWORKS))
    classes: int = setting(4, "Classes, background included.", low=2)
    filters: tuple[int, ...] = setting((16, 32, 64, 128, 256), "Channels of the five resolutions.")
    normalization: str = setting(
        "batch",
        "Over a batch, with running statistics for prediction; or over each image (instance).",
        options=NORMALIZATIONS,
    )


@dataclasses.dataclass(frozen=True)
class Method(Checked):
    """The method."""

    name: str = setting("cifp", "Which method is trained.", options=tuple(sorted(METHODS)))


@dataclasses.dataclass(frozen=True)
class Optimizer(Checked):
    """Optimizer and schedule."""

    name: str = setting("sgd", "Stochastic gradient descent, or AdamW.", options=("sgd", "adamw"))
    learning_rate: float = setting(0.01, "The highest one.", low=0)
    momentum: float = setting(0.9, "Of sgd.", low=0, below=1)
    weight_decay: float = setting(
        1e-4, "Of sgd it is added to the gradient, before the momentum.", low=0
    )
    schedule: str = setting(
        "poly",
        "How the learning rate falls: by (1 - step / steps) ** power, or as a cosine.",
        options=("poly", "cosine"),
    )
    power: float = setting(0.9, "Of the poly schedule.", low=0)
    warmup_steps: int = setting(
        0, "Over which the learning rate rises from 0.", low=0, unit="steps"
    )
    clip: float = setting(0.0, "The largest norm of the gradient; 0 leaves it as it is.", low=0)


@dataclasses.dataclass(frozen=True)
class Ema(Checked):
    """The teacher, a moving average."""

    decay: float = setting(0.99, "Of the average; 0 switches the teacher off.", low=0, below=1)


@dataclasses.dataclass(frozen=True)
class Training(Checked):
    """The length of a run, and what is kept of it."""

    init_from: str = setting(
        "", "A run, a file or the name of weights to start from; empty: the seed."
    )
    supervised_steps: int = setting(
        0,
        "The first steps, on labelled images alone; ramps begin after them.",
        low=0,
        unit="steps",
    )
    steps: int = setting(30_000, "To the end of the run, and of the schedule.", low=1, unit="steps")
    remat: bool = setting(
        False, "Whether only the results of convolutions are kept and the rest is computed twice."
    )
    accumulate: int = setting(
        1, "Parts of a batch that are computed one after the other, in the memory of one.", low=1
    )
    skip_at_most: int = setting(
        10, "So many steps in a row whose loss is no number are skipped; then the run ends.", low=0
    )
    log_every: int = setting(50, "Between two lines of the log.", low=1, unit="steps")
    evaluate_every: int = setting(
        200, "Between two validations; 0: at the end alone.", low=0, unit="steps"
    )
    checkpoint_every: int = setting(
        1000, "Between two checkpoints; each validation saves one too.", low=1, unit="steps"
    )


@dataclasses.dataclass(frozen=True)
class Evaluation(Checked):
    """How whole scans are predicted and scored."""

    stride: tuple[int, ...] = setting(
        (18, 18, 4), "Of the sliding window, where slices are not resized.", unit="voxels"
    )
    gaussian: bool = setting(False, "Whether windows count more in their middle.")
    flips: bool = setting(False, "Whether mirror images are averaged, for four times the time.")
    batch: int = setting(8, "Windows or slices in one pass; on a CPU at most one a device.", low=1)
    empty: str = setting(
        "diagonal", "The distance of a missed class.", options=("diagonal", "literature")
    )
    largest_component: str = setting(
        "",
        "Whether only the largest component is kept: of each class, of all classes together "
        "(foreground), or of all and then, in what is left, of each (both).",
        options=("", "class", "foreground", "both"),
    )
    weights: str = setting("ema", "Which network is evaluated.", options=("ema", "student"))
    report: str = setting("best", "Which checkpoint is reported.", options=("last", "best"))
    overlays: int = setting(
        3, "So many cases, the worst ones, are drawn as PNG and on the report.", low=0
    )


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """All settings but those of the methods."""

    seed: int = setting(
        0, "Initialisation, views, dropout and the order of the data follow from it.", low=0
    )
    parallel: str = setting(
        "jit",
        "A mesh of all devices (jit), all devices of one process (pmap), or one device.",
        options=("jit", "pmap", "none"),
    )
    spatial_partitions: int = setting(
        1, "Devices that share each image, of which each holds a part (jit alone).", low=1
    )
    precision: str = setting(
        "float32", "Of a step's images and features.", options=tuple(PRECISIONS)
    )
    compare: tuple[str, ...] = setting(
        (), "Methods that are trained one after the other and compared, such as supervised,cifp."
    )
    data: Data = dataclasses.field(default_factory=Data)
    preparation: Preparation = dataclasses.field(default_factory=Preparation)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    model: Model = dataclasses.field(default_factory=Model)
    method: Method = dataclasses.field(default_factory=Method)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    ema: Ema = dataclasses.field(default_factory=Ema)
    training: Training = dataclasses.field(default_factory=Training)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)


def default_config() -> Config:
    """A configuration with every key set; a file in `configs/` overrides what differs.

    It is locked: a key that is not declared cannot be set, neither in a file in `configs/` nor on
    the command line.
    """
    methods = {name: dataclasses.asdict(method.settings()) for name, method in METHODS.items()}
    return ConfigDict(dataclasses.asdict(Settings()) | {"methods": methods}).lock()


def set_where_present(methods: Config, **settings: Any) -> None:
    """Sets each setting in all methods of `config.methods` that have one of that name.

    Raises:
      ValueError: no method has it.
    """
    for name, value in settings.items():
        those = [method for method in methods.values() if name in method]
        if not those:
            raise unknown(name, sorted({key for method in methods.values() for key in method}))
        for method in those:
            method[name] = value


def use_strong_recipe(config: Config, *, learning_rate: float = 1e-3, warmup_steps: int) -> None:
    """Strong augmentation, and AdamW with a warm-up, a cosine and a clipped gradient."""
    config.augmentation.name = "strong"
    config.optimizer.update(
        name="adamw",
        learning_rate=learning_rate,
        weight_decay=0.01,
        schedule="cosine",
        warmup_steps=warmup_steps,
        clip=1.0,
    )
