"""The layouts of data that are known: `LAYOUTS` says all that is particular to each of them.

A layout that is added here can be trained, evaluated, predicted and exported: no other file asks
for the name of one. `docs/howto/new_layout.md` adds one step by step.
"""

import dataclasses
from typing import Literal

from cifp_jax.scans import preparation
from cifp_jax.scans.expected import MR_INTENSITY, Expected
from cifp_jax.scans.preparation import Preparation

Cut = Literal["resized_slices", "turned_crops", "crops"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What a data set's files are, and what is done with them.

    Paths lie below the data's folder. Those of files hold `{}` for the name that stands in a list.

    Attributes:
      rank: number of axes of a training example without its channels, 2 or 3.
      cut: how a training example is cut out of a record, which decides what else is possible:
        "resized_slices": a whole slice, resized to the patch (`transforms.weak_slice`);
        "turned_crops": a crop of a scan, always turned and mirrored (`transforms.weak_scan`);
        "crops": a crop of a slice or scan at its own spacing (`transforms.weak_crop`).
      train_list: the list of training cases; labelled ones come first.
      train_file: the file of a training case. A layout of rank 2 whose training files are its
        volumes trains on each of their slices.
      unlabeled_list: the list of more training cases without labels; "" where there is none.
      validation_list: the list of validation volumes; "" where the last cases of the training list
        are set aside, as many patients as `config.data.validation` says.
      volume_file: the file of a validation or test volume, (X, Y, Z) or, of rank 2, (Z, H, W).
      may_be_empty: those of the lists above that need not name a case.
      preparation: what was done to the scans before they were stored, and what `predict` does to
        new ones; None where each data set has its own, which its configuration says.
      new_scans: what `predict` does to them instead, where all that were stored lay alike; None
        where it does the same.
      takes_scans: whether `predict` can prepare scans as these files were; if not, it takes files
        that are prepared already, and no others.
      label_names: of the classes, background first; () where each data set has its own.
      expected: what scans the data set holds, which `predict` compares new ones with; None where
        each data set has its own.
      phantoms: whether `data.phantom` writes synthetic cases in this layout.
    """

    rank: int
    cut: Cut
    train_list: str
    train_file: str
    unlabeled_list: str = ""
    validation_list: str = ""
    volume_file: str
    may_be_empty: tuple[str, ...] = ()
    preparation: Preparation | None
    new_scans: Preparation | None = None
    takes_scans: bool = True
    label_names: tuple[str, ...] = ()
    expected: Expected | None = None
    phantoms: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where the rank does not fit the cut."""
        ranks = {"resized_slices": (2,), "turned_crops": (3,), "crops": (2, 3)}[self.cut]
        if self.rank not in ranks:
            raise ValueError(f"A layout of {self.cut} has rank {ranks}, not {self.rank}.")

    @property
    def trains_on_slices_of_volumes(self) -> bool:
        """Whether each slice of a listed volume is a training case of its own."""
        return self.rank == 2 and self.train_file == self.volume_file

    @property
    def predicts_whole_slices(self) -> bool:
        """Whether slices are resized, predicted and resized back; if not, by sliding windows.

        A network sees at prediction what it saw in training.
        """
        return self.cut == "resized_slices"

    @property
    def may_have_channels(self) -> bool:
        """Whether images may have more than one channel; only `transforms.weak_crop` takes them."""
        return self.cut == "crops"

    @property
    def may_be_averaged_down(self) -> bool:
        """Whether `config.data.downsample` may be above 1.

        Slices are resized to the patch, and data that is cut by "crops" is prepared at the spacing
        that is wanted.
        """
        return self.cut == "turned_crops"

    @property
    def may_lie_on_device(self) -> bool:
        """Whether the device may hold the scans and cut the crops, `config.data.on_device`.

        It can cut and turn by quarter turns, which is all that "turned_crops" need.
        """
        return self.cut == "turned_crops"


# Of scans that `prepare` has made into a data set.
_PREPARED = Layout(
    rank=3,
    cut="crops",
    train_list="labelled.list",
    train_file="volumes/{}.h5",
    unlabeled_list="unlabelled.list",
    validation_list="validation.list",
    volume_file="volumes/{}.h5",
    may_be_empty=("unlabelled.list", "validation.list"),
    preparation=None,
)

_LA = Layout(
    rank=3,
    cut="turned_crops",
    train_list="train.list",
    train_file="{}/mri_norm2.h5",
    volume_file="{}/mri_norm2.h5",
    preparation=preparation.LA,
    new_scans=preparation.NEW_LA,
    label_names=("background", "left atrium"),
    expected=Expected("MR", ((0.625, 0.625),) * 3, MR_INTENSITY),
    phantoms=True,
)

_ACDC = Layout(
    rank=2,
    cut="resized_slices",
    train_list="train_slices.list",
    train_file="data/slices/{}.h5",
    validation_list="val.list",
    volume_file="data/{}.h5",
    preparation=preparation.ACDC,
    label_names=("background", "right ventricle", "myocardium", "left ventricle"),
    # Across the slices, then in their plane.
    expected=Expected("MR", ((5.0, 10.0), (0.7, 1.92), (0.7, 1.92)), MR_INTENSITY),
    phantoms=True,
)

# More sets of the field, whose files were cut to the organ, or to percentiles of the intensity,
# before they were stored.
_BY_OTHERS = {
    "preparation": None,
    "new_scans": None,
    "takes_scans": False,
    "expected": None,
    "phantoms": False,
}

LAYOUTS = {
    "la": _LA,
    "acdc": _ACDC,
    "volumes": _PREPARED,
    "slices": dataclasses.replace(_PREPARED, rank=2),
    "pancreas": dataclasses.replace(
        _LA,
        train_file="Pancreas_h5/{}_norm.h5",
        volume_file="Pancreas_h5/{}_norm.h5",
        label_names=("background", "pancreas"),
        **_BY_OTHERS,
    ),
    "brats2019": dataclasses.replace(
        _LA,
        train_list="train.txt",
        train_file="data/{}.h5",
        validation_list="val.txt",
        volume_file="data/{}.h5",
        label_names=("background", "tumour"),
        **_BY_OTHERS,
    ),
    "prostate": dataclasses.replace(_ACDC, label_names=("background", "prostate"), **_BY_OTHERS),
    "mnms": dataclasses.replace(
        _ACDC,
        label_names=("background", "left ventricle", "myocardium", "right ventricle"),
        **_BY_OTHERS,
    ),
}


def find_layout(name: str) -> Layout:
    """The layout of a name.

    Raises:
      ValueError: there is none; names those that there are.
    """
    if name not in LAYOUTS:
        raise ValueError(f"config.data.name is {name!r}; known: {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]
