"""How strongly images are augmented before a method sees them."""

import dataclasses

from cifp_jax.settings import Checked, setting

_CHANCE = ": the probability, and the smallest and largest value."


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """Strong augmentation of nnU-Net's kind."""

    margin: float = setting(
        1.25,
        "How many times larger than the patch the crop of a scan is, so that what is turned or "
        "made smaller shows the scan and not the zeros around the crop.",
        low=1,
        high=2,
    )
    full_rotation: float = setting(
        0.5, "The probability of any angle in the plane of the first two axes.", low=0, high=1
    )
    rotation: float = setting(
        23.0, "The largest angle in that plane otherwise.", low=0, high=180, unit="degrees"
    )
    tilt: float = setting(
        15.0,
        "The largest angle of each of two turns of volumes out of that plane; 0 suits voxels much "
        "thicker than wide.",
        low=0,
        high=180,
        unit="degrees",
    )
    scale: tuple[float, float, float] = setting(
        (0.5, 0.7, 1.35), f"Changes of size, by a factor{_CHANCE}"
    )
    stretch: float = setting(
        1.1,
        "The largest factor by which one side grows against the mean of all; of volumes, to the "
        "power of 4/3.",
        low=1,
        high=2,
    )
    mirror: float = setting(
        0.5, "The probability of a mirror image along the first axis.", low=0, high=1
    )
    translation: float = setting(
        0.08, "The largest shift along an axis, as a share of the patch.", low=0, high=1
    )
    elastic: float = setting(
        0.02,
        "The standard deviation of elastic displacements on the coarse grid where they are drawn, "
        "as a share of the patch; between its points it is 0.8 of that.",
        low=0,
        high=0.2,
    )
    elastic_probability: float = setting(
        0.3, "The probability of an elastic deformation.", low=0, high=1
    )
    gamma: tuple[float, float, float] = setting(
        (0.75, 0.6, 1.65), f"Gamma, by the exponent of gray values{_CHANCE}"
    )
    brightness: tuple[float, float, float] = setting(
        (0.75, 0.7, 1.3), f"Brightness, by a factor{_CHANCE}"
    )
    contrast: tuple[float, float, float] = setting(
        (0.75, 0.65, 1.5), f"Contrast, by a factor{_CHANCE}"
    )
    blur: tuple[float, float, float] = setting(
        (0.2, 0.5, 1.0), f"Blur, by the filter's standard deviation in voxels{_CHANCE}"
    )
    resolution: tuple[float, float, float] = setting(
        (0.2, 0.5, 1.0), f"Lower resolution, by the share that is left{_CHANCE}"
    )
    noise: tuple[float, float, float] = setting(
        (0.5, 0.1, 0.3), f"Noise, by its standard deviation in those of the image{_CHANCE}"
    )

    def __post_init__(self) -> None:
        """Raises ValueError where a probability is none, or a range is empty or not positive."""
        super().__post_init__()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and not (
                len(value) == 3 and 0 <= value[0] <= 1 and 0 < value[1] <= value[2]
            ):
                raise ValueError(
                    f"augmentation.strong.{field.name} is {value}, but must hold a probability "
                    f"from 0 to 1 and two values above 0, the smaller one first."
                )
