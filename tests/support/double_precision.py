"""`python -m tests.support.double_precision`: `cifp_jax.main`, its features in double precision.

In float32, batch normalisation over few voxels multiplies the rounding of sums whose order differs,
and that would hide what is wrong.
"""

import jax
import jax.numpy as jnp

from cifp_jax import main
from cifp_jax.models.network import PRECISIONS

if __name__ == "__main__":
    PRECISIONS["float32"] = jnp.float64
    jax.config.update("jax_enable_x64", True)
    main.console()
