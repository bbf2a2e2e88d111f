"""The page's Train tab from the shell: for ``convscope train``, and for runs of one's own loop, ``convscope runs``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convscope.cli.explore import DEMO, open_source, serve_page, server_options
from convscope.cli.help import HelpfulCommand
from convscope.cli.source import Source, debug_option
from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convscope.server.session import Opened, Session
    from convscope.store import Store
    from convscope.training.learner import Learner

TAB = "train"


@dataclass(frozen=True)
class First:
    """The run that the page opens with: how its learner is made, what it is called, and when to stop.

    ``path`` is its folder where the user named one, ``resumes`` whether a run goes on there; ``until`` None doesn't
    begin to train.
    """

    make: Callable[[], Learner]
    name: str
    path: Path | None
    resumes: bool
    until: Mapping[str, Any] | None


def open_training(folder: str, data: Sequence[str], server: dict[str, Any], first: First | None = None) -> None:
    """Open the page on the runs of a folder, with one of them open if ``first`` says so.

    The explorer's network, the embedded one, is loaded when somebody goes there.
    """

    def session(store: Store) -> Session:
        from convscope.server.jobs import Jobs
        from convscope.server.session import Session
        from convscope.server.training import Training

        def opener() -> Opened:
            return open_source(Source(DEMO, images=(DEMO,)), store)

        jobs = Jobs()
        training = Training(jobs, folder, data)
        if first is not None:
            training.begin_with(first.make, first.name, first.path, resumes=first.resumes, until=first.until)
        return Session(opener, store, jobs, training=training, needed=False)

    serve_page(f"the runs in {folder}" if first is None else first.name, None, server, session, TAB)


@click.command(
    cls=HelpfulCommand,
    examples=(
        ("convscope runs runs/", "watch your own loop, which records there with `cs.Monitor(…, store='runs/a')`"),
        ("convscope runs runs/ --data data/cifar10", "… and go on with runs that were trained on these images"),
    ),
)
@click.argument("folder", default="runs", required=False)
@click.option("--data", multiple=True, metavar="SOURCE", help="mnist, fashion-mnist, or a folder; may be repeated")
@server_options
@debug_option
def runs(folder: str, data: tuple[str, ...], **server: Any) -> None:
    """Look at training runs in the page, also while they are being recorded: those of `convscope train`, and of any
    loop with a Monitor around it.

    FOLDER is a run, or the folder in which runs lie side by side.
    """
    if not Path(folder).is_dir():
        raise ConvscopeError(
            "there is no such folder of runs",
            where=folder[:200],
            next_step="name the one that your loop records into: cs.Monitor(…, store='runs/a')",
        )
    open_training(folder, data, server)


__all__ = ["First", "open_training", "runs"]
