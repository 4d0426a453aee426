"""The settings that every configuration starts from, with their meaning."""

import dataclasses
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from cifp_jax import augmentation
from cifp_jax.methods import METHODS
from cifp_jax.scans.preparation import Preparation
from cifp_jax.settings import unknown

# A `ConfigDict`. Its keys are not known to a type checker, which would take each for any type.
Config: TypeAlias = Any


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


def default_config() -> Config:
    """A configuration with every key set; a file in `configs/` overrides what differs.

    It is locked: a key that does not stand here cannot be set, neither in a file in `configs/` nor
    on the command line.
    """
    config = ConfigDict()
    config.seed = 0  # initialisation, views, dropout and the order of the data follow from it
    config.parallel = "jit"  # jit (mesh of all devices), pmap (devices of one process), none
    config.spatial_partitions = 1  # devices that share each image, of which each holds a part (jit)
    config.precision = "float32"  # of a step's images and features: float32 or bfloat16
    config.compare = ()  # methods to train one after the other and to compare, e.g. ("cifp",)

    config.data = ConfigDict()
    config.data.name = ""  # layout: la, acdc, pancreas, brats2019, prostate, mnms, slices, volumes
    config.data.root = ""  # folder that holds the lists
    config.data.identity = ""  # of a data set of `prepare`, as its arrays say it too; "": unchecked
    config.data.labeled = 8  # labelled patients (LA: scans) from the start of the training list
    config.data.validation = 0  # LA: unlabelled scans set aside from the end of train.list
    config.data.test_list = ""  # file of test cases, or "" for none
    config.data.channels = 1  # of the images
    config.data.patch_size = (256, 256)  # voxels; each side a multiple of 16
    config.data.center_crop = 0  # acdc: side of the middle of a slice that is seen, pixels; 0: all
    config.data.interpolation = "nearest"  # by which slices are resized: nearest or linear
    config.data.downsample = 1  # whole-number factor by which 3D scans are averaged down
    config.data.batch_labeled = 12  # labelled images in a batch, over all devices
    config.data.batch_unlabeled = 12  # unlabelled images likewise
    config.data.workers = 0  # Grain worker processes; 0 reads in threads of this process
    config.data.cache_gb = 4.0  # decoded scans kept in memory, per process
    config.data.on_device = False  # la: scans in the device's memory, cropped there; no host work
    config.data.phantoms = 0  # > 0: so many synthetic training cases are written to `root` first

    # What `prepare` did to your own scans, so that `predict` does the same to new ones.
    config.preparation = ConfigDict(dataclasses.asdict(Preparation()))

    # The recipe of all methods alike: weak is the field's protocol, drawn by the loader; strong
    # augments labelled and unlabelled images inside the step, as `config.augmentation.strong` says.
    config.augmentation = ConfigDict()
    config.augmentation.name = "weak"  # weak or strong
    config.augmentation.strong = ConfigDict(dataclasses.asdict(augmentation.Settings()))

    config.model = ConfigDict()
    config.model.name = "unet"  # unet or vnet
    config.model.classes = 4  # background included
    config.model.filters = (16, 32, 64, 128, 256)  # channels of the five resolutions

    config.method = ConfigDict()
    config.method.name = "cifp"  # which method is trained

    # The settings of each method, as its file in `cifp_jax/methods/` declares them.
    config.methods = ConfigDict(
        {name: dataclasses.asdict(method.settings()) for name, method in METHODS.items()}
    )

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # sgd (stochastic gradient descent) or adamw
    config.optimizer.learning_rate = 0.01  # the highest one
    config.optimizer.momentum = 0.9  # of sgd
    config.optimizer.weight_decay = 1e-4  # of sgd it is added to the gradient, before the momentum
    config.optimizer.schedule = "poly"  # poly: learning_rate * (1 - step / steps) ** power; cosine
    config.optimizer.power = 0.9  # of the poly schedule
    config.optimizer.warmup_steps = 0  # over which the learning rate rises from 0
    config.optimizer.clip = 0.0  # largest norm of the gradient; 0 leaves it as it is

    config.ema = ConfigDict()
    config.ema.decay = 0.99  # of the teacher; 0 switches the teacher off

    config.training = ConfigDict()
    config.training.init_from = ""  # run, file or name of weights to start from; "": the seed
    config.training.supervised_steps = 0  # first, on labelled images alone; ramps begin after them
    config.training.steps = 30_000  # to the end of the run, of the schedule too
    config.training.remat = False  # keep what convolutions give; compute the rest twice
    config.training.accumulate = 1  # parts of a batch, one after the other: memory of one part
    config.training.skip_at_most = 10  # steps in a row whose loss is no number; then the run ends
    config.training.log_every = 50  # steps between two lines of the log
    config.training.evaluate_every = 200  # steps between validations; 0: at the end only
    config.training.checkpoint_every = 1000  # steps; one is saved at every evaluation too

    config.evaluation = ConfigDict()
    config.evaluation.stride = (18, 18, 4)  # of the sliding window, where slices aren't resized
    config.evaluation.gaussian = False  # windows count more in their middle
    config.evaluation.flips = False  # average over mirror images, for 4 times the time
    config.evaluation.batch = 8  # windows or slices in one pass; on a CPU at most one a device
    config.evaluation.empty = "diagonal"  # distance of a missed class: diagonal or literature
    config.evaluation.largest_component = ""  # what is kept: of each class, foreground; "": all
    config.evaluation.weights = "ema"  # which network is evaluated: ema or student
    config.evaluation.report = "best"  # which checkpoint is the reported one: last or best
    config.evaluation.overlays = 3  # cases drawn as PNG and on the report, the worst ones
    return config.lock()
