"""How the shell speaks: help pages with examples, one clear panel per error, progress when it takes long."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from difflib import get_close_matches
from io import StringIO
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from convscope.progress import Progress

Example = tuple[str, str]
WIDTH = 100
PIPE_WIDTH = 180
LINE_SECONDS = 30.0


def terminal(*, error: bool = False) -> Console:
    """A console on stdout, or on stderr."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    # Into a file or a pipe, a table is as wide as it needs to be.
    return Console(stderr=error, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


def show_error(what: str, *, where: str = "", next_step: str = "") -> None:
    """What, where and the next step, in a panel on stderr."""
    from rich.panel import Panel
    from rich.text import Text

    text = Text(what)
    if where:
        text.append(f"\n{where}", style="dim")
    if next_step:
        text.append("\nNext: ", style="bold")
        text.append(next_step)
    terminal(error=True).print(
        Panel(text, title="convscope", title_align="left", border_style="red", expand=False), width=min(WIDTH, _width())
    )


class _Helpful:
    """Help with examples and aligned tables, for commands and groups alike."""

    examples: Sequence[Example]

    def get_help(self, context: click.Context) -> str:
        """The help page; colors are left out by click where the output isn't a terminal."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        assert isinstance(self, click.Command)  # noqa: S101 - a mixin of commands only
        buffer = StringIO()
        page = Console(file=buffer, force_terminal=sys.stdout.isatty(), width=min(WIDTH, _width()), highlight=False)
        usage = " ".join(self.collect_usage_pieces(context))
        page.print(Text.assemble(("Usage: ", "bold"), f"{context.command_path} {usage}"))
        page.print()
        page.print(Text(_paragraphs(self.help or "")))

        def section(title: str, rows: Sequence[tuple[str, str]]) -> None:
            if not rows:
                return
            table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
            table.add_column(style="cyan", overflow="fold", max_width=44)
            table.add_column(overflow="fold")
            for left, right in rows:
                table.add_row(Text(left), Text(right))
            page.print()
            page.print(Text(title, style="bold"))
            page.print(table)

        if isinstance(self, click.Group):
            section("Commands", self.rows(context) if isinstance(self, HelpfulGroup) else [])
        options = [each for each in self.get_params(context) if isinstance(each, click.Option)]
        records = [each.get_help_record(context) for each in options]
        section("Options", [record for record in records if record is not None])
        if self.examples:
            page.print()
            page.print(Text("Examples", style="bold"))
            for line, reason in self.examples:
                # Never wrapped: it is there to be copied.
                page.print(Text(f"  # {reason}", style="dim"))
                page.print(Text(f"  {line}", style="cyan"), soft_wrap=True)
        return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


class HelpfulCommand(_Helpful, click.Command):
    """A command whose help has examples."""

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples


class HelpfulGroup(_Helpful, click.Group):
    """A group whose help has examples, and that suggests the command that was meant."""

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order of the journey, not of the alphabet."""
        del context
        return list(self.commands)

    def rows(self, context: click.Context) -> list[tuple[str, str]]:
        """Name and one line of help of every command that isn't hidden."""
        found = [(name, self.get_command(context, name)) for name in self.list_commands(context)]
        return [(name, each.get_short_help_str(150)) for name, each in found if each is not None and not each.hidden]

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command meant by the first word; an unknown one is refused with the nearest."""
        word = args[0] if args else ""
        if word and not word.startswith("-") and self.get_command(context, word) is None:
            nearest = get_close_matches(word, self.list_commands(context), n=2, cutoff=0.5)
            hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
            context.fail(f"no command {word[:80]!r}{hint}")
        return super().resolve_command(context, args)


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((WIDTH, 24)).columns


def _paragraphs(text: str) -> str:
    """A docstring's paragraphs, each on one line: the console breaks them where its width wants."""
    import inspect

    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


@contextmanager
def working(message: str, cancel: threading.Event | None = None) -> Iterator[None]:
    """A spinner, then a bar once the work reports how far it is; on stderr, and only where somebody looks.

    ``cancel`` stops the work at its next report. With it the work is a long one, so that into a file, too, a line is
    written now and then.
    """
    from convscope.progress import watch

    if not sys.stderr.isatty():
        if cancel is None:
            yield
            return
        with watch(_Lines(), cancel):
            yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeRemainingColumn(), console=terminal(error=True), transient=True) as bars:
        task = bars.add_task(message, total=None)

        def listen(progress: Progress) -> None:
            bars.update(task, total=progress.total, completed=progress.done, description=progress.message)

        with watch(listen, cancel):
            yield


@contextmanager
def interruptible(words: str) -> Iterator[threading.Event]:
    """Ctrl-C says ``words`` and sets the event, which stops the work in good order; a second one stops it at once."""
    import signal
    import threading

    cancel = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield cancel
        return

    def stop(*_: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()
        click.echo(f"\n{words} (Ctrl-C again to stop at once)", err=True)

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class _Lines:
    """Progress as lines: the first and the last report of each message, and one every half minute."""

    def __init__(self) -> None:
        self._message, self._said, self._told = "", 0.0, -1

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        last = progress.done == progress.total and progress.total > 0
        if progress.message == self._message and now - self._said < LINE_SECONDS and not last:
            return
        self._message, self._said = progress.message, now
        if last and self._told == progress.done:
            return
        self._told = progress.done if last else -1
        left = f", {duration(progress.seconds_left)} left" if progress.seconds_left and not last else ""
        click.echo(f"{progress.message}: {progress.done:,} of {progress.total:,}{left}", err=True)


def duration(seconds: float) -> str:
    """A duration in the largest unit that fits.

    >>> duration(42.0), duration(600.0), duration(5400.0), duration(200_000.0)
    ('42 s', '10 min', '1.5 h', '56 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{seconds / 3600:.0f} h"


__all__ = [
    "Example",
    "HelpfulCommand",
    "HelpfulGroup",
    "duration",
    "interruptible",
    "show_error",
    "terminal",
    "working",
]
