"""How far a long work is: a bar where somebody looks on, lines in a log."""

import sys
import time

from tqdm import tqdm

LINE_EVERY = 10.0  # seconds between two lines of a log


def watched() -> bool:
    """Whether somebody looks on: stderr is a terminal, or this is a notebook."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return terminal or "ipykernel" in sys.modules


def log(line: str) -> None:
    """Writes a line where a bar would be."""
    print(line, file=sys.stderr, flush=True)


def speed(images_per_second: float) -> str:
    """In words."""
    digits = 0 if images_per_second >= 10 else 2
    return f"{images_per_second:,.{digits}f} images/s"


class Progress:
    """A bar, or every few seconds a line with the speed; the last step has one too."""

    def __init__(
        self, total: int, unit: str, *, images_per_unit: float, shown: bool = True
    ):
        self._total, self._unit, self._images = total, unit, images_per_unit
        self._lines = shown and not watched()
        self._bar = tqdm(total=total, unit=unit, disable=not shown or self._lines)
        self._said = time.monotonic()
        self._first: tuple[float, int] | None = None  # when so many were done

    def reach(self, done: int) -> None:
        """So many units of the total are done, here or in an earlier try."""
        self._bar.n = done
        self._bar.refresh()
        now = time.monotonic()
        self._first = self._first or (now, done)
        if self._lines and (done == self._total or now - self._said >= LINE_EVERY):
            began, before = self._first
            line = f"{self._unit} {done:,} of {self._total:,}"
            if done > before and now > began:
                line += f", {speed((done - before) * self._images / (now - began))}"
            log(line)
            self._said = now

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()
