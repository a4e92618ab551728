"""The options that several commands share, and groups of options that are one parameter of a command.

    def draw(*, model: ModelOption = None, machine: Machine, say: Output) -> None:

A parameter whose type is a dataclass, such as `Machine`, represents the options that are the fields of the dataclass.
`say: Output` represents --json and --quiet, which every command has. Typer has no groups of options, so `spelled_out`
makes a function in which every group is replaced by its options.

Square brackets in a help text are markup of Rich. Write `\\[` for a bracket.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vpfb_cli import output
from vpfb_cli.output import Output
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.machine.file_names import expanded
from vpfb_core.machine.limits import require_threads
from vpfb_core.settings import LARGEST_SEED, shown

# The panels of `--help` that commands share.
DATA, MODEL, MACHINE, OUTPUT = "Data", "Model", "Machine", "Output"


# --- declaring options ------------------------------------------------------------------------------------------------


def option(usage: str, panel: str, help: str, **more: Any) -> Any:
    """An option for `Annotated`.

    Args:
        usage: the option as in a usage line, "-o --out FILE", or "--json" for a flag.
        panel: the panel of `--help` that shows it.
        help: its help text.
        more: other arguments of `typer.Option`.
    """
    names = [word for word in usage.split() if word.startswith("-")]
    output.DECLARED.update(names)
    metavar = "".join(word for word in usage.split() if not word.startswith("-"))
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, **more)


def path_option(usage: str, panel: str, help: str, **more: Any) -> Any:
    """An option for a path, or for a name that may be a path: a leading ~ is the home folder."""
    return option(usage, panel, help, parser=expanded, **more)


def file_option(usage: str, panel: str, help: str, **more: Any) -> Any:
    """An option for a path that the command gets as a `Path`."""
    return option(usage, panel, help, parser=_as_path, **more)


def path_argument(metavar: str, help: str, **more: Any) -> Any:
    """The argument of a command that is a path, or a name that may be one."""
    return typer.Argument(metavar=metavar, help=help, parser=expanded, **more)


def _as_path(text: str) -> Path:
    return Path(expanded(text))


def spelled_out(command: Callable[..., None]) -> Callable[..., None]:
    """The command for Typer, in which every group is replaced by its options."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Callable[..., Any]] = {}  # parameter → the function or class that makes it from its options
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if parameter.annotation is Output:
            groups[name] = _start_output
        elif is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation  # type: ignore[assignment]  # a class, not an instance
        else:
            parameters.append(parameter)
            continue
        parameters.extend(_options_of(groups[name]).values())

    for parameter in parameters:
        _parse_number(parameter)
    usages = {usage for parameter in parameters for usage in _usages(parameter)}

    def run(**values: Any) -> None:
        for name, make in groups.items():
            values[name] = make(**{option: values.pop(option) for option in _options_of(make)})
        output.current().options = usages
        _require_current_folder()
        command(**values)

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    return run


def _require_current_folder() -> None:
    """Refuse to work in a folder that was removed: paths lead nowhere, and torch ends the process when it is imported.

    Raises:
        DataError: the current folder does not exist.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise DataError("the current folder has been removed", hint="change to another one: cd DIR") from error


def _declared(parameter: inspect.Parameter) -> list[Any]:
    """The declaration of an option for Typer; empty for the parameter of another kind."""
    return [each for each in getattr(parameter.annotation, "__metadata__", ()) if hasattr(each, "param_decls")]


def _parse_number(parameter: inspect.Parameter) -> None:
    """Let an option for a number repeat the wrong value in its message, as Typer does not."""
    kind = getattr(parameter.annotation, "__origin__", None)
    for declared in _declared(parameter):
        if kind in (int, int | None):
            declared.parser = _whole_number
        elif kind in (float, float | None):
            declared.parser = _number


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{shown(text)} is not a whole number") from None


def _number(text: str) -> float:
    with suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    raise typer.BadParameter(f"{shown(text)} is not a finite number")


def _usages(parameter: inspect.Parameter) -> tuple[str, ...]:
    """The names of an option as they are typed, such as -n or --batch-size."""
    declared = _declared(parameter)
    names = [name for each in declared for name in (each.default, *(each.param_decls or ()))]  # Typer's default is one
    return tuple(name for name in names if isinstance(name, str) and name.startswith("-"))


def _options_of(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(make, eval_str=True).parameters


def at_least_one(value: int | None) -> int | None:
    """Refuse a count below one. Typer's own min= does not repeat the wrong value in its message."""
    return _at_least(1, value)


def at_least_two(value: int | None) -> int | None:
    """Refuse a count below two, as of things that have two ends."""
    return _at_least(2, value)


def _at_least(least: int, value: int | None) -> int | None:
    if value is not None and value < least:
        raise typer.BadParameter(f"{value} is not at least {least}")
    return value


def share(value: float | None) -> float | None:
    """Refuse a share that is not between 0 and 1."""
    if value is not None and not 0 <= value <= 1:
        raise typer.BadParameter(f"{value:g} is not between 0 and 1")
    return value


def _threads_of_the_machine(value: int | None) -> int | None:
    """Refuse a number of threads below one, or beyond what the machine can run."""
    require_threads(at_least_one(value), "--threads")
    return value


def _device_name(value: str) -> str:
    """Refuse a value that is not the name of a device. Whether it exists is checked later, when torch is imported."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is not one of auto, cpu, cuda, cuda:N, mps")
    return value


def _within_seeds(value: int) -> int:
    if not 0 <= value <= LARGEST_SEED:  # not min= and max=, which would print both bounds in every --help
        raise typer.BadParameter(f"{value} is not between 0 and {LARGEST_SEED}")
    return value


@contextmanager
def naming_options(options: Mapping[str, str]) -> Iterator[None]:
    """Inside this context, an error about a setting names the option by which it was given.

    Args:
        options: the options that were given, by the names of their settings.
    """
    try:
        yield
    except ConfigError as error:
        name = re.match(r"\w+(?=:| = )", error.message)
        if name is None or name[0] not in options:
            raise
        raise ConfigError(options[name[0]] + error.message[name.end() :], hint=error.hint) from error


# --- single options ---------------------------------------------------------------------------------------------------

MODEL_HELP = "A run folder, a .safetensors file, or the name of a built-in model."
ModelOption = Annotated[
    str | None,
    path_option("--model -m MODEL", MODEL, MODEL_HELP, show_default="the newest run under ./runs, else digits"),
]
CountOption = Annotated[int, option("-n N", OUTPUT, "Number of images or rows.", callback=at_least_one)]
BatchSizeOption = Annotated[
    int, option("--batch-size N", MACHINE, "Number of images or rows that are computed at once.", callback=at_least_one)
]


# --- groups of options ------------------------------------------------------------------------------------------------


def _start_output(
    json: Annotated[
        bool, option("--json", OUTPUT, "Print one JSON document on stdout, also on failure; overrides -q.")
    ] = False,
    quiet: Annotated[bool, option("--quiet -q", OUTPUT, "Print only the result: no notes and no progress.")] = False,
) -> Output:
    return output.start(json_mode=json or output.current().json_mode, quiet=quiet)  # `vpfb --json sample`, too


@dataclass(frozen=True)
class Machine:
    """The device and the threads of a command, and the seed of its random numbers."""

    device: Annotated[
        str, option("--device DEVICE", MACHINE, r"auto, cpu, cuda\[:N] or mps.", callback=_device_name)
    ] = "auto"
    threads: Annotated[
        int | None,
        option(
            "--threads N",
            MACHINE,
            "Number of CPU threads.",
            callback=_threads_of_the_machine,
            show_default="one per core",
        ),
    ] = None
    seed: Annotated[
        int,
        option("--seed INT", MACHINE, "Seed of all random numbers; it is recorded.", callback=_within_seeds),
    ] = 0


@dataclass(frozen=True)
class DataAccess:
    """The folder of the named data sets, and whether a missing data set may be downloaded."""

    data_root: Annotated[
        Path | None,
        file_option(
            "--data-root DIR", DATA, "Folder of the named data sets.",
            show_default="VPFB_DATA, else ~/.cache/vpfb",
        ),
    ] = None  # fmt: skip
    download: Annotated[
        bool, typer.Option(" /--no-download", help="Never download a missing data set.", rich_help_panel=DATA,
                           metavar="", show_default=False)
    ] = True  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `vpfb_core.data.load`."""
        return {"root": self.data_root, "download": self.download}
