"""The command line. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from autotransfer.cli import lists, run, use

app = typer.Typer(
    name="autotransfer",
    help="Labelled data in, the best fine-tuned pretrained model out.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(metadata.version("autotransfer"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and stop.")
    ] = False,
) -> None:
    """Labelled data in, the best fine-tuned pretrained model out."""


run.register(app)
use.register(app)
lists.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Exit codes: 0 done, 1 the search failed, 2 the user can mend it, 130 interrupted.

    Args:
        arguments: in place of the process's own.
    """
    app(args=None if arguments is None else list(arguments), prog_name="autotransfer")
