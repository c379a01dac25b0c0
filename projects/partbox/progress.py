"""How far long work is: a bar with the time left on a terminal, plain lines with it now and then everywhere else.

A log file gets the lines, whatever the terminal shows. Short work says nothing in lines.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

SECONDS_BETWEEN_LINES = 30.0  # the first line comes after as many
LOGGERS = ("partbox", "detectron2", "fvcore")  # those of a run, see partbox.engine.run_folder

Item = TypeVar("Item")
_open: list[Progress] = []  # innermost last


class Progress:
    """Counts what is finished and tells the time left; used as a context.

    Args:
        total: units of the whole work; None where nobody knows.
        what: is done, such as ``cutting``.
        unit: that is counted, such as ``image``.
        done: units that were finished before.
        weights: (whole, finished before): what the units cost together, where one costs more than another.
        shown: False tells nothing.
        lines: whether there are lines; False where the log says the same already.
    """

    def __init__(
        self,
        total: int | None,
        what: str,
        unit: str,
        *,
        done: int = 0,
        weights: tuple[float, float] | None = None,
        shown: bool = True,
        lines: bool = True,
    ) -> None:
        self.total, self.what, self.unit, self.done = total, what, unit, done
        self._whole, self._finished = weights or (float(total or 0), float(done))
        self._before, self._now = self._finished, ""
        self._expected = self._passes = 0.0
        self._weight: float | None = None  # of the unit that has begun
        self._lines = shown and lines
        self._start = self._last_line = time.monotonic()
        self._said = False
        self._context = ExitStack()
        self._drawn = shown and _on_terminal()
        self._bar = tqdm(
            total=None if total is None else self._whole,
            initial=self._finished,
            desc=what,
            unit=unit,
            miniters=0,
            smoothing=0,
            disable=not self._drawn,
            bar_format=None if total is None else "{desc}{postfix}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
        )

    def __enter__(self) -> Progress:
        if self._drawn and not _open:  # log lines go above the bar
            loggers = [logging.getLogger(name) for name in LOGGERS]
            self._context.enter_context(logging_redirect_tqdm([one for one in loggers if one.handlers]))
        _open.append(self)
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _open.remove(self)
        self._bar.close()
        self._context.close()
        if self._said and error is None:
            self._tell(f"{self.what}: {self._count()} after {_clock(time.monotonic() - self._start)}")

    def begin(self, now: str = "", *, weight: float | None = None, passes: float = 0.0) -> None:
        """A unit begins.

        Args:
            now: what it is, if that is not said by the whole.
            weight: what it costs; None where all cost the same.
            passes: passes over an image that it takes at most, of which :func:`note_passes` will tell.
        """
        self._now, self._weight, self._expected, self._passes = now, weight, passes, 0.0
        self._show()

    def step(self, count: int = 1) -> None:
        """Units are finished."""
        self.done += count
        self._finished += count if self._weight is None else self._weight
        self._weight, self._expected, self._passes = None, 0.0, 0.0
        self._look()

    def note_passes(self, images: int) -> None:
        """Some of the passes of the unit that began are made."""
        if self._expected:
            self._passes += images
            self._look()

    @property
    def reached(self) -> float:
        """What is done of the whole work, the unit that has begun included."""
        part = min(self._passes / self._expected, 1.0) if self._expected else 0.0
        return self._finished + part * (1.0 if self._weight is None else self._weight)

    def seconds_left(self) -> float | None:
        """At the speed so far; None where nobody knows."""
        made = self.reached - self._before
        if self.total is None or made <= 0:
            return None
        return (time.monotonic() - self._start) / made * max(self._whole - self.reached, 0.0)

    def _count(self) -> str:
        of = "" if self.total is None else f" of {self.total:,}"
        number = self.done if self.total is None else self.total
        return f"{self.done:,}{of} {self.unit if number == 1 else _several(self.unit)}"

    def _show(self) -> None:
        if self._drawn:
            self._bar.set_postfix_str(f"{self._count()}{f', {self._now}' if self._now else ''}", refresh=False)
            self._bar.update(
                max(self.reached - self._bar.n, 0.0) if self.total is not None else self.done - self._bar.n
            )

    def _look(self) -> None:
        self._show()
        now = time.monotonic()
        if not self._lines or now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line, self._said = now, True
        left = self.seconds_left()
        inside = f" ({self._passes:,.0f} of at most {self._expected:,.0f} passes over an image)" if self._passes else ""
        words = [self._count(), f"now {self._now}{inside}" if self._now else ""]
        words.append(f"{_clock(now - self._start)} so far" if left is None else f"about {_clock(left)} left")
        self._tell(f"{self.what}: {', '.join(filter(None, words))}")

    def _tell(self, line: str) -> None:
        """Log the line; where nothing is logged write it to stderr. A terminal with a bar does not get it."""
        logger = logging.getLogger(__name__)
        handlers = logging.getLogger(LOGGERS[0]).handlers
        if not self._drawn and handlers:
            logger.info("%s", line)
        elif not self._drawn:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        else:
            record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, line, (), None)
            for handler in handlers:
                if not _shows_on_terminal(handler):
                    handler.handle(record)


def track(items: Iterable[Item], total: int | None, what: str, unit: str, *, shown: bool = True) -> Iterator[Item]:
    """The items, one after the other, while a :class:`Progress` counts them."""
    with Progress(total, what, unit, shown=shown) as progress:
        for item in items:
            yield item
            progress.step()


def say(text: str) -> None:
    """Print a line to stdout, above a bar where there is one."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def note_passes(images: int) -> None:
    """Tell the innermost open :class:`Progress` of forward passes over images, if it waits for them.

    Attacks call it, so that one that works on a single batch for hours says how far it is.
    """
    if _open:
        _open[-1].note_passes(images)


def _several(unit: str) -> str:
    """Batches, entries, images."""
    return f"{unit}es" if unit.endswith("ch") else f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"


def _clock(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))


def _shows_on_terminal(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None)
    return stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__) and bool(stream and stream.isatty())


def _on_terminal() -> bool:
    """Whether stderr is one, and this process is not one of several whose log goes to a file alone."""
    handlers = logging.getLogger(LOGGERS[0]).handlers
    consoles = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    logs_here = not handlers or any(getattr(one, "stream", None) in consoles for one in handlers)
    return logs_here and sys.stderr.isatty()
