"""What a method's loss is given beside the networks, and what it returns."""

from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int, Key

# Two streams of examples:
#   `labeled`: `image` (l, *spatial, c), `label` int32 (l, *spatial), `index` int32 (l,);
#   `unlabeled`: `image` (u, *spatial, c), weakly augmented, `index` int32 (u,); and where the step
#     augments strongly, `strong` (u, *spatial, c), the same with its gray values changed as those
#     of labelled images are, `source` (u, *source, c), what both were read from, and `places`
#     (u, r, *spatial), where.
# An example draws its random numbers by its index, so they do not depend on its place in the batch.
Batch = dict[str, Any]

# Global `(sum, count)` pairs by name, to be divided once, after the step.
Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]

# The loss, and the moved batch statistics of each student with the metrics.
Outcome = tuple[Float[Array, ""], tuple[Any, Metrics]]


class Context(NamedTuple):
    """The surroundings of a step.

    Attributes:
      key: the key of this step, from which all of its random numbers follow.
      step: the number of this step, from 0.
      axis_name: of the devices under pmap, over which sums are taken; None under jit.
      shards: the number of equal blocks, one a device, that both streams of the batch consist of.
      first: the number of the first step that unlabelled images take part in.
    """

    key: Key[Array, ""]
    step: Int[Array, ""]
    axis_name: str | None = None
    shards: int = 1
    first: int = 0

    @property
    def since(self) -> Int[Array, ""]:
        """Steps since unlabelled images take part, which ramps and stages of a method count by."""
        return self.step - self.first
