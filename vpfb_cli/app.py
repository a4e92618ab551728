"""The command line: the list of commands, and the options of `vpfb` itself."""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import vpfb_core
from vpfb_cli import output
from vpfb_cli.commands.compose import compose
from vpfb_cli.commands.data import data
from vpfb_cli.commands.encode import encode
from vpfb_cli.commands.eval import eval_
from vpfb_cli.commands.info import info
from vpfb_cli.commands.interpolate import interpolate
from vpfb_cli.commands.ood import ood
from vpfb_cli.commands.plot import plot
from vpfb_cli.commands.sample import sample
from vpfb_cli.commands.score import score
from vpfb_cli.commands.train import train
from vpfb_cli.options import option, spelled_out

# One function per command, named as the command is, in the order of `vpfb --help`; see `register`.
COMMANDS: tuple[Callable[..., None], ...] = (
    train, sample, interpolate, encode, compose, ood, score, eval_, info, plot, data,
)  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        output.current().result({"version": vpfb_core.__version__}, f"vpfb {vpfb_core.__version__}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    option("--version", "Options", "Print the version and exit.", callback=_print_version, is_eager=True),
]
JsonOption = Annotated[bool, option("--json", "Options", "Print one JSON document on stdout, as after a command.")]


class _HelpAsAsked:
    """A command whose help text is printed by Rich, or is one JSON document after --json."""

    def get_help(self, ctx: Any) -> str:
        """What is left to print of the help text: nothing if Rich has printed it."""
        get_help: Callable[[Any], str] = super().get_help  # type: ignore[misc]  # of Typer's class beside this one
        if not output.current().json_mode:
            return get_help(ctx)
        with redirect_stdout(io.StringIO()) as printed:
            get_help(ctx)
        return json.dumps({"help": printed.getvalue()})


class _Command(_HelpAsAsked, TyperCommand):
    pass


class _Group(_HelpAsAsked, TyperGroup):
    pass


def build(commands: tuple[Callable[..., None], ...] = COMMANDS) -> TyperGroup:
    """The command line with these commands, to be run by `command_line.run`."""
    app = typer.Typer(
        name="vpfb",
        cls=_Group,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    app.callback(epilog=_escaped("Example:\nvpfb sample -n 64 -o grid.png"))(vpfb)
    for command in commands:
        register(app, command)
    built = get_command(app)
    assert isinstance(built, TyperGroup)  # it has more than one command
    return built


def register(app: typer.Typer, command: Callable[..., None]) -> None:
    """Add a command with the name of its function.

    Its docstring is the help text. The part from "Example:" on is shown after the options.
    """
    name = command.__name__.strip("_").replace("_", "-")
    described, heading, examples = inspect.cleandoc(command.__doc__ or "").partition("Example:")
    help, epilog = _escaped(described.strip()), _escaped(heading + examples)
    app.command(name, cls=_Command, help=help, epilog=epilog)(spelled_out(command))


def vpfb(
    version: VersionOption = False,
    json: JsonOption = False,
) -> None:
    """Variational Potential Flow Bayes: train a potential on images, draw images from it, and score images with it."""


def _escaped(text: str) -> str:
    """Text whose square brackets are not read as Rich's markup."""
    return text.replace("[", "\\[")
