"""Progress on stderr: a bar on a terminal, plain lines at intervals elsewhere, nothing in quiet mode.

    with progress(out, "training") as bar:
        for step in range(steps):
            ...
            bar.update((step + 1) / steps, lambda: {"step": f"{step + 1}/{steps}", "loss": loss.item()})

A function of fields is called only when something is shown, so an update costs a clock reading and no device sync.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from vpfb_cli import streams
from vpfb_cli.wording import duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from vpfb_cli.output import Output

Fields = Mapping[str, object]
NO_FIELDS: Fields = {}

PLAIN_INTERVAL = 10.0  # seconds between two lines if stderr is not a terminal
TERMINAL_INTERVAL = 0.2
RATE_WINDOW = 60.0  # seconds over which the time left is estimated
_ignoring_hang_ups = suppress(OSError, ValueError)  # the terminal can be closed while the run continues
FEWEST_POINTS = 3  # kept even if they are older, because lines can be further apart


@contextmanager
def progress(out: Output, description: str) -> Iterator[Bar]:
    """Inside this context, the progress of a loop is shown.

    Args:
        out: the output of the command, whose mode decides whether progress is shown.
        description: one word for the work, such as "training".
    Yields:
        The bar to update.
    """
    bar: Bar
    if not out.talkative:
        bar = Bar()
    elif streams.is_decorated(sys.stderr):
        bar = TerminalBar(description)
    else:
        bar = PlainBar(description, out.note)
    bar.open()
    finished = False
    try:
        yield bar
        finished = True
    finally:
        bar.close(finished=finished)


class Bar:
    """Progress that is not shown."""

    def open(self) -> None:
        pass

    def update(self, fraction: float, fields: Fields | Callable[[], Fields] = NO_FIELDS) -> None:
        """Set the progress. This is called after every step.

        Args:
            fraction: the share of the work that is done, in [0, 1].
            fields: other values to show, in this order (name → number or text), or a function that returns them.
        """

    def close(self, *, finished: bool) -> None:
        pass


class _VisibleBar(Bar):
    """A bar that is shown: when it is shown, the time taken, the time left, and the fields as text."""

    def __init__(self, description: str, interval: float) -> None:
        self.description = description
        self.fraction = 0.0
        self.fields_text = ""
        self._fields: Fields | Callable[[], Fields] = NO_FIELDS
        self._complete = False  # whether 100 % has been shown
        self._interval = interval
        self._began = time.monotonic()
        self._due = self._began + interval
        self._pace: deque[tuple[float, float]] = deque()  # (time, fraction) over the last minute

    def update(self, fraction: float, fields: Fields | Callable[[], Fields] = NO_FIELDS) -> None:
        self.fraction, self._fields = fraction, fields
        now = time.monotonic()
        if not self._pace:
            self._pace.append((now, fraction))
        if now >= self._due:
            self._due = now + self._interval
            self._refresh(now)

    def close(self, *, finished: bool) -> None:
        if finished and not self._complete:
            self._refresh(time.monotonic())

    def show(self, timing: str) -> None:
        raise NotImplementedError

    def _refresh(self, now: float) -> None:
        fields = self._fields() if callable(self._fields) else self._fields
        self._complete = self.fraction >= 1
        self.fields_text = ", ".join(f"{name} {_as_text(value)}" for name, value in fields.items())
        self.show(self._timing(now))

    def _timing(self, now: float) -> str:
        if self.fraction >= 1:
            return f"in {duration(now - self._began)}"
        self._pace.append((now, self.fraction))
        while now - self._pace[0][0] > RATE_WINDOW and len(self._pace) > FEWEST_POINTS:
            self._pace.popleft()
        (then, fraction_then) = self._pace[0]
        if self.fraction <= fraction_then:
            return "time left unknown"
        return f"{duration((now - then) * (1 - self.fraction) / (self.fraction - fraction_then))} left"


class PlainBar(_VisibleBar):
    """Lines for a log file, a pipe, or a simple terminal."""

    def __init__(self, description: str, say: Callable[[str], None]) -> None:
        super().__init__(description, PLAIN_INTERVAL)
        self._say = say

    def show(self, timing: str) -> None:
        parts = [f"{self.fraction:.0%}", self.fields_text, timing]
        self._say(f"{self.description}: {', '.join(part for part in parts if part)}")


class TerminalBar(_VisibleBar):
    """A bar that is redrawn in place, with the fields below it; notes and warnings appear above."""

    def __init__(self, description: str) -> None:
        super().__init__(description, TERMINAL_INTERVAL)
        self._timing_in_words = ""
        self._live: Live | None = None

    def open(self) -> None:
        from rich.live import Live

        # It is drawn by update() and not by a thread of Rich's, which would not survive a fork. stdout stays as it is.
        live = Live(console=_stderr_console(), auto_refresh=False, redirect_stdout=False, get_renderable=self._drawing)
        with _ignoring_hang_ups:
            live.start(refresh=True)
            self._live = live

    def show(self, timing: str) -> None:
        self._timing_in_words = timing
        if self._live:
            live, self._live = self._live, None  # stays None if the terminal has gone
            with _ignoring_hang_ups:
                live.refresh()
                self._live = live

    def close(self, *, finished: bool) -> None:
        super().close(finished=finished)
        if self._live:
            with _ignoring_hang_ups:
                self._live.stop()

    def _drawing(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(total=1.0, completed=min(max(self.fraction, 0.0), 1.0))
        line.add_row(Text(self.description), bar, Text(f"{self.fraction:.0%}, {self._timing_in_words}".rstrip(", ")))
        return Group(line, Text(self.fields_text, style="dim")) if self.fields_text else line


def _stderr_console() -> Console:
    from rich.console import Console

    class StderrConsole(Console):
        def on_broken_pipe(self) -> None:  # Rich would redirect stdout to nowhere and exit
            raise BrokenPipeError

    return StderrConsole(stderr=True, highlight=False)


def _as_text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
