"""What a person sees while a run goes on."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Console

SHARE = "pseudo_share_"  # of each class, in the metrics of methods that report it
CONSOLE = Console(highlight=False, emoji=False, markup=False)
if not CONSOLE.is_terminal:
    CONSOLE.width = 160  # a log file has no width, and rich would take 80 and cut tables off


class Progress:
    """Prints a line at each log point: step, loss, images per second, time left.

    Speed is that of the steps since the line before, or since a validation where one came between:
    it leaves out the time of validations, and so does the time left. The first line includes the
    time of the compilation.
    """

    def __init__(self, console: Console, first: int, steps: int, images: int) -> None:
        """Starts the clock.

        Args:
          console: where the lines go.
          first: steps that were done before, by the run that goes on.
          steps: at the end of the run.
          images: of a step.
        """
        self._console, self._steps, self._images = console, steps, images
        self._vanished: set[str] = set()
        self._start(first)

    def _start(self, step: int) -> None:
        self._step, self._clock = step, time.monotonic()

    def _print(self, step: int, text: str) -> None:
        self._console.print(f"step {step:>{len(str(self._steps))}}/{self._steps}  {text}")

    def started(self, step: int, following: int) -> None:
        """Says that the first step is compiled, and at which one the next line comes."""
        seconds = _duration(time.monotonic() - self._clock)
        if following > step:
            self._print(step, f"compiled in {seconds}; the loss comes at step {following}")

    def logged(self, step: int, loss: float) -> dict[str, float]:
        """Prints the line of a log point; returns its speed for the metrics file.

        Args:
          step: steps done so far, at least one more than at the line or validation before.
          loss: the mean over the steps since the line before.
        """
        seconds = max(time.monotonic() - self._clock, 1e-9) / (step - self._step)
        self._start(step)
        speed, left = self._images / seconds, seconds * (self._steps - step)
        self._print(step, f"loss {loss:.4f}  {speed:.1f} images/s  {_duration(left)} left")
        return {"images_per_second": speed}

    def watched(self, step: int, scalars: Mapping[str, float]) -> None:
        """Warns of classes that have vanished from the pseudo labels, each time that one does.

        Args:
          step: steps done so far.
          scalars: means over the steps since the line before. Those named `pseudo_share_<class>`
            are watched once `lambda`, the weight with which they are learned, is above 0.1.
        """
        shares = {k: v for k, v in scalars.items() if k.startswith(SHARE)}
        gone = {k for k, v in shares.items() if v == 0 and scalars.get("lambda", 0.0) > 0.1}
        for name in sorted(gone - self._vanished):
            self._print(
                step,
                f"warning: no pseudo label holds class {name.removeprefix(SHARE)} any more. What "
                f"helps: a longer ramp (ramp_steps), a smaller lambda_max, more labelled images, "
                f"or a start from a supervised network (config.training.init_from)",
            )
        self._vanished = gone

    def skipped(self, step: int, names: Mapping[str, Sequence[str]]) -> None:
        """Warns of a step that changed nothing, with the names of its cases by stream."""
        cases = "; ".join(f"{stream}: {', '.join(of)}" for stream, of in names.items())
        self._print(
            step, f"warning: its loss or gradient is no number, so it changes nothing ({cases})"
        )

    def validated(self, step: int, figures: dict[str, float]) -> None:
        """Prints the figures of a validation that has just ended, and starts the clock again."""
        text = "  ".join(f"{name} {value:.2f}" for name, value in figures.items())
        self._print(step, f"validation  {text}")
        self._start(step)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
