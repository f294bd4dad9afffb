"""What all verbs share: one JSON object on the standard output, errors as text, exit codes."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from autotransfer.errors import AutotransferError, SearchError, TrialFailedError

FAILED, WRONG, INTERRUPTED = 1, 2, 130
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", help="A plugin's Python file or module; may be given several times.")
]
_NO_PLUGINS = inspect.Parameter(
    "plugins",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[list[str] | None, typer.Option("--plugin", help="Taken by every verb; this one needs none.")],
)


@dataclass(frozen=True)
class Said:
    """What a verb has to say."""

    body: Mapping[str, Any]
    """For ``--json``."""
    text: str
    """For people."""
    code: int = 0


def verb(
    app: typer.Typer, name: str, *, flags: Sequence[inspect.Parameter] = (), as_json: bool = True
) -> Callable[[Callable[..., Said]], Callable[..., Said]]:
    """Register a function as a verb, with ``--debug`` and, where it has a body to show, ``--json``.

    Args:
        app: of the command line.
        name: of the verb.
        flags: parameters in place of the function's ``**flags``.
        as_json: whether there is a ``--json``.
    """

    def register(function: Callable[..., Said]) -> Callable[..., Said]:
        own = inspect.signature(function, eval_str=True).parameters.values()
        shared = [_flag("json", "--json", "One JSON object on the standard output, and nothing else.")] * as_json
        shared.append(_flag("debug", "--debug", "Show the trace of an error."))
        kept = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.kind is not p.VAR_KEYWORD]
        idle = not any(p.name == "plugins" for p in (*kept, *flags))
        parameters = [*kept, *flags, *([_NO_PLUGINS] if idle else []), *shared]

        def command(**given: Any) -> None:
            debug, wanted = given.pop("debug"), given.pop("json", False)
            if idle:
                given.pop("plugins")
            raise typer.Exit(run(lambda: function(**given), as_json=wanted, debug=debug))

        command.__doc__ = function.__doc__
        vars(command)["__signature__"] = inspect.Signature(parameters)
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name)(command)
        return function

    return register


def run(function: Callable[[], Said], *, as_json: bool, debug: bool = False) -> int:
    """Call a verb, print what it says, and return the exit code; errors raised on purpose become their text."""
    try:
        with kept_output() if as_json else contextlib.nullcontext():
            said = function()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before there was anything to keep\n")
        return INTERRUPTED
    except AutotransferError as error:
        if debug:
            traceback.print_exc()
        else:
            sys.stderr.write(f"error: {error}\n")
        return FAILED if isinstance(error, (SearchError, TrialFailedError)) else WRONG
    text = json.dumps(finite(said.body), ensure_ascii=False, allow_nan=False) if as_json else said.text.rstrip("\n")
    if text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    return said.code


@contextlib.contextmanager
def kept_output() -> Iterator[None]:
    """Send to the error stream whatever anybody prints meanwhile, other libraries' C code included."""
    sys.stdout.flush()
    held = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(held, 1)
        os.close(held)


def finite(value: Any) -> Any:
    """Return a value as strict JSON has it: what is no finite number becomes null, paths and tuples plain."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _flag(name: str, option: str, text: str) -> inspect.Parameter:
    kind = Annotated[bool, typer.Option(option, help=text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
