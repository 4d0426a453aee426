"""What a person sees while a run goes on."""

import time

from rich.console import Console


class Progress:
    """One line per log point: step, loss, images per second, time left.

    Speed leaves out the time spent in validation; the first line holds the compilation.
    """

    def __init__(self, console: Console, first: int, steps: int, images: int) -> None:
        self._console, self._steps, self._images = console, steps, images
        self._step, self._clock = first, time.monotonic()

    def logged(self, step: int, loss: float) -> dict[str, float]:
        """Prints the line of a log point; returns its speed for the metrics file."""
        now = time.monotonic()
        seconds = max(now - self._clock, 1e-9)
        left = seconds / max(step - self._step, 1) * (self._steps - step)
        speed = self._images / seconds
        self._step, self._clock = step, now
        self._console.print(
            f"step {step:>{len(str(self._steps))}}/{self._steps}  loss {loss:.4f}  "
            f"{speed:.1f} images/s  {_duration(left)} left"
        )
        return {"images_per_second": speed}

    def validated(self, step: int, figures: dict[str, float]) -> None:
        """Prints the figures of a validation and takes its time out of the speed."""
        text = "  ".join(f"{name} {value:.2f}" for name, value in figures.items())
        self._console.print(
            f"step {step:>{len(str(self._steps))}}/{self._steps}  validation  {text}"
        )
        self._clock = time.monotonic()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
