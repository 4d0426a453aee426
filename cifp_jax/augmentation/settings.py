"""How strongly labelled and unlabelled images are augmented before a method sees them."""

import dataclasses

Chance = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Strong augmentation of nnU-Net's kind; the numbers were chosen by measurement on ACDC.

    Attributes:
      full_rotation: probability of any angle in the plane of the first two axes.
      rotation: largest angle there otherwise, degrees.
      tilt: 3D: largest angle out of that plane, degrees. 0 where voxels are much thicker than wide.
      scale_probability: probability of a change of size.
      scale: smallest and largest factor of it.
      stretch: largest factor by which one side grows against the mean of all.
      mirror: probability of a mirror image along the first axis.
      translation: largest shift along an axis, as a share of the patch.
      elastic_probability: probability of an elastic deformation.
      elastic: standard deviation of its displacements, as a share of the patch.
      gamma, brightness, contrast: probability, smallest and largest exponent or factor.
      blur: probability, smallest and largest standard deviation of the filter, voxels.
      resolution: probability, smallest and largest share of the resolution that is left.
      noise: probability, smallest and largest standard deviation, in those of the image.
    """

    full_rotation: float = 0.5
    rotation: float = 23.0
    tilt: float = 15.0
    scale_probability: float = 0.5
    scale: tuple[float, float] = (0.7, 1.35)
    stretch: float = 1.1
    mirror: float = 0.5
    translation: float = 0.08
    elastic_probability: float = 0.3
    elastic: float = 0.02
    gamma: Chance = (0.3, 0.6, 1.65)
    brightness: Chance = (0.3, 0.7, 1.3)
    contrast: Chance = (0.3, 0.65, 1.5)
    blur: Chance = (0.2, 0.5, 1.0)
    resolution: Chance = (0.2, 0.5, 1.0)
    noise: Chance = (0.2, 0.1, 0.3)
