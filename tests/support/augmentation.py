"""Strong augmentation that does nothing, to switch on what a test is about."""

from cifp_jax.augmentation import Settings

NEVER = (0.0, 1.0, 1.0)
NOTHING = Settings(
    full_rotation=0.0,
    rotation=0.0,
    tilt=0.0,
    scale=NEVER,
    stretch=1.0,
    mirror=0.0,
    translation=0.0,
    elastic_probability=0.0,
    gamma=NEVER,
    brightness=NEVER,
    contrast=NEVER,
    blur=NEVER,
    resolution=NEVER,
    noise=NEVER,
)
