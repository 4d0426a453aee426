"""The science: pure functions of arrays. A new method is one file and one line in `METHODS`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from cifp_jax.methods import (
    ad_mt,
    bcp,
    cifp,
    cps,
    crossmatch,
    fixmatch,
    mean_teacher,
    supervised,
    ua_mt,
    unimatch,
    views,
)
from cifp_jax.methods.ema import one_teacher


def _always(_: Any) -> bool:
    return True


def _never(_: Any) -> bool:
    return False


class Method(NamedTuple):
    """A way of training. `settings` below is an instance of its own dataclass.

    Attributes:
      loss: `(student, teacher, batch, context, settings) -> (loss, (batch_stats, metrics))`. The
        batch, the context and what is returned are described in `context.py`. Where a method has
        several students (teachers), `student` (`teacher`) is a tuple of them, and so are the
        batch statistics that a method of several students returns.
      settings: the frozen dataclass that declares the method's settings; see `settings.py`.
      students: networks that are trained, each with statistics of its own. The first is the one
        that is evaluated and that the teachers follow.
      teachers: moving averages of the first student; the first of them is evaluated.
      decays: `(context, decay, settings)` gives the decay of each teacher at a step, where `decay`
        is `config.ema.decay`: 1 leaves a teacher as it is, 0 makes it the student.
      pairs: `(settings)` says whether images of a stream are mixed in pairs, so that each device
        needs whole pairs.
    """

    loss: Callable
    settings: type
    students: int = 1
    teachers: int = 1
    decays: Callable = one_teacher
    pairs: Callable[[Any], bool] = _always


METHODS: dict[str, Method] = {
    "ad_mt": Method(ad_mt.loss, ad_mt.Settings, teachers=2, decays=ad_mt.decays, pairs=views.pairs),
    "bcp": Method(bcp.loss, bcp.Settings, decays=bcp.decays),
    "cifp": Method(cifp.loss, cifp.Settings, pairs=_never),
    "cps": Method(cps.loss, cps.Settings, students=2, pairs=_never),
    "crossmatch": Method(crossmatch.loss, crossmatch.Settings, pairs=views.pairs),
    "fixmatch": Method(fixmatch.loss, fixmatch.Settings, pairs=views.pairs),
    "mean_teacher": Method(mean_teacher.loss, mean_teacher.Settings, pairs=_never),
    "supervised": Method(supervised.loss, supervised.Settings, pairs=_never),
    "ua_mt": Method(ua_mt.loss, ua_mt.Settings, pairs=_never),
    "unimatch": Method(unimatch.loss, unimatch.Settings, pairs=views.pairs),
}
