"""The shell: one group of commands. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from convscope._version import __version__
from convscope.cli.explore import demo, open_command, serve
from convscope.cli.help import HelpfulGroup, show_error
from convscope.cli.memory import keep_freed_memory
from convscope.cli.mine import mine
from convscope.cli.tables import layers, methods, openapi
from convscope.cli.train import train
from convscope.cli.training_page import runs
from convscope.cli.view import view
from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130


@click.group(
    cls=HelpfulGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=(
        ("convscope demo", "open the explorer on the embedded network and photos"),
        ("convscope open torchvision:resnet18 --images photos/", "open it on your own"),
        ("convscope layers torchvision:resnet18", "what there is to look at"),
        ("convscope view weights demo stem.convolution -o kernels.png", "one view, without the page"),
        ("convscope mine demo --images photos/ --study study/", "what every unit responds to, over all your images"),
        ("convscope train", "train a small network, and watch everything in it change"),
        ("convscope runs runs/", "watch the training of your own loop"),
    ),
)
@click.version_option(__version__, prog_name="convscope")
def commands() -> None:
    """See inside any convolutional network: weights, weight gradients, activations and their gradients."""


for _command in (demo, open_command, layers, view, mine, train, runs, methods, serve, openapi):
    commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the shell and return its exit code: 0, 1 for an error, 2 for a wrong command line, 130 for Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if arguments is None:  # a process of our own, not a call from someone's Python
        keep_freed_memory()
    try:
        result = commands.main(given, prog_name="convscope", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        return 2
    except click.ClickException as error:
        usage = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        step = f"see `{usage} --help`" if usage else ""
        show_error(error.format_message().rstrip("."), next_step=step)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("cancelled", err=True)
        return INTERRUPTED
    except ConvscopeError as error:
        if debug:
            raise
        show_error(error.what, where=error.where, next_step=error.next_step)
        return 1
    except BrokenPipeError:
        # The reader of our output, like `head`, has seen enough.
        sys.stderr.close()
        return 1
    except Exception as error:
        if debug:
            raise
        show_error(
            f"something unexpected went wrong: {type(error).__name__}: {error}",
            next_step="run it again with --debug, and report what it prints",
        )
        return 1


__all__ = ["commands", "main"]
