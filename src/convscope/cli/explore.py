"""Commands that open the page: ``demo``, ``open``, ``serve``."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from convscope.cli.help import HelpfulCommand
from convscope.cli.source import (
    Source,
    debug_option,
    image_option,
    model_options,
    read_record,
    take_source,
    write_record,
)
from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from convscope.images import ImageSet
    from convscope.server.session import Opened, Session
    from convscope.store import Store

Function = TypeVar("Function", bound=Callable[..., Any])

DEMO = "demo"
RUNS = "runs"
MOST_MINED_SHOWN = 1000
_SERVER_OPTIONS = (
    click.option("--port", type=click.IntRange(0, 65535), default=0, help="where to listen  [default: any free port]"),
    click.option("--host", default="127.0.0.1", show_default=True, help="the address to listen on"),
    click.option(
        "--allow-host",
        multiple=True,
        metavar="NAME",
        help="a further host name to answer to, behind a tunnel or a proxy",
    ),
    click.option("--no-browser", is_flag=True, help="only print the address"),
)
_STUDY_OPTION = click.option(
    "--study", metavar="FOLDER", help="where results are kept  [default: nowhere, after the end]"
)
_RUNS_OPTION = click.option(
    "--runs", metavar="FOLDER", help="where training is recorded, yours too  [default: the study's folder]"
)


def server_options(function: Function) -> Function:
    """The options that say how the page is served."""
    for option in reversed(_SERVER_OPTIONS):
        function = option(function)
    return function


@click.command(cls=HelpfulCommand, examples=(("convscope demo", "no network access, no GPU"),))
@server_options
@_STUDY_OPTION
@_RUNS_OPTION
@debug_option
def demo(study: str | None, **server: Any) -> None:
    """Open the explorer on the embedded network, EfficientNet-Lite0, and a few photos.

    Its Train tab trains small networks on 5,000 handwritten digits.
    """
    _explore(Source(DEMO, images=(DEMO,)), study, server)


@click.command(
    "open",
    cls=HelpfulCommand,
    examples=(
        ("convscope open torchvision:resnet18 --images photos/", "a zoo's network"),
        ("convscope open my_package.models:make_net --weights net.safetensors --images data/val", "your own"),
        (
            "convscope open models.py:make_net --weights random --image-size 64 --study study/",
            "untrained, results kept",
        ),
    ),
)
@click.argument("model")
@model_options
@image_option
@server_options
@_STUDY_OPTION
@_RUNS_OPTION
@debug_option
def open_command(model: str, images: tuple[str, ...], study: str | None, **options: Any) -> None:
    """Open the explorer on a network: load it, serve it on this machine only, open the browser.

    MODEL is demo, torchvision:NAME, timm:NAME, package.module:factory or path/to/file.py:factory. Without --images the
    embedded photos are shown.
    """
    source = take_source(model, options, images)
    _explore(source, study, options)


@click.command(
    cls=HelpfulCommand, examples=(("convscope serve study/", "what `convscope open MODEL --study study/` left there"),)
)
@click.argument("study", default=".", required=False)
@click.option("--trust", is_flag=True, help="run the Python code, or open the pickle, that the study names")
@server_options
@_RUNS_OPTION
@debug_option
def serve(study: str, trust: bool, **server: Any) -> None:
    """Open the explorer on a study: its stored views, its network and its images."""
    folder = Path(study)
    source, fingerprint = read_record(folder, trust=trust)
    _explore(source, str(folder), server, expected=fingerprint)


def _explore(source: Source, study: str | None, server: dict[str, Any], expected: str = "") -> None:
    runs = server["runs"] or (None if study is None else str(Path(study) / RUNS))

    def session(store: Store) -> Session:
        from convscope.server.jobs import Jobs
        from convscope.server.session import Session
        from convscope.server.training import Training

        def opener() -> Opened:
            opened = open_source(source, store)
            if study is not None and store.writable:
                _record(Path(study), source, opened.network.fingerprint, expected)
            return opened

        jobs = Jobs()
        return Session(opener, store, jobs, place=study or "", training=Training(jobs, runs))

    serve_page(source.model, study, server, session)


def serve_page(
    title: str, study: str | None, server: dict[str, Any], session: Callable[[Store], Session], tab: str = ""
) -> None:
    """Serve a session until Ctrl-C, and show its page; ``tab`` is the one to begin with."""
    # torch takes longer than everything else together, so it starts loading before the server does.
    threading.Thread(target=_load_early, name="convscope-imports", daemon=True).start()
    from convscope.server.listen import bind
    from convscope.server.listen import serve as listen
    from convscope.store import Store

    # Otherwise the default handler would end the process without removing what is temporary.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    names = server["allow_host"]
    with ExitStack() as stack:
        listener = stack.enter_context(bind(server["host"], server["port"], names))
        if study is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="convscope-", ignore_cleanup_errors=True))
        else:
            folder = study
        store = stack.enter_context(Store.open(folder))

        def announce(url: str) -> None:
            address = f"{url}&tab={tab}" if tab else url
            click.echo(f"Opening {title} at {address}\nStop it with Ctrl-C.")
            sys.stdout.flush()
            if not server["no_browser"]:
                threading.Thread(target=_show_page, args=(address,), daemon=True).start()

        try:
            listen(session(store), listener, names=names, announce=announce)
        except KeyboardInterrupt:
            click.echo("\nstopped", err=True)


def _load_early() -> None:
    import torch

    # An import of the worker thread's must not meet a half-made module of ours, so nothing else is imported here.
    del torch


def open_source(source: Source, store: Store) -> Opened:
    """Load images and network side by side: the first waits for the disk, the second for the processor."""
    from convscope.server.session import Opened

    found: list[tuple[ImageSet, str] | BaseException] = []

    def load() -> None:
        try:
            found.append(_open_images(source, store))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=load, name="convscope-images", daemon=True)
    thread.start()
    network = source.network()
    thread.join()
    (result,) = found
    if isinstance(result, BaseException):
        raise result
    return Opened(network, *result)


def _open_images(source: Source, store: Store) -> tuple[ImageSet, str]:
    """The images and where they came from; where the user named none, those that were mined, or the embedded photos."""
    from convscope.images import ImageSet

    if source.images:
        return source.image_set(), ", ".join(source.images)
    try:
        mined = mined_location(store)
        if mined:
            # The strip shows a few; the study finds each of its images by itself.
            return Source(source.model, images=(mined,)).image_set()[:MOST_MINED_SHOWN], mined
        return Source(source.model, images=(DEMO,)).image_set(), DEMO
    except ConvscopeError:
        # They are an optional package, or were moved; the page says how to add images of one's own.
        return ImageSet([]), "no images"


def mined_location(store: Store) -> str:
    """Where the images are that were mined into a store; empty where nothing was, or they came from Python."""
    from convscope.view import View

    for entry in store.query(method="mining", kind="mining_plan", limit=1):
        blob = store.get(entry.key)
        if blob is not None:
            return str(View.from_bytes(blob).meta.get("location", ""))
    return ""


def _record(study: Path, source: Source, fingerprint: str, expected: str) -> None:
    if expected and expected != fingerprint:
        click.echo(
            "This isn't the network the study was made with: its weights or preprocessing changed. "
            "Views are computed anew; the old ones stay in the study.",
            err=True,
        )
    elif not expected:
        write_record(study, source, fingerprint)


def _show_page(url: str) -> None:
    import webbrowser

    # Without a display, webbrowser would start a text browser in this terminal.
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    webbrowser.open(url)


__all__ = ["DEMO", "demo", "open_command", "open_source", "serve", "serve_page", "server_options"]
