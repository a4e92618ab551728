"""Checks of output files, before the work whose results they will contain."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vpfb_cli.wording import one_of
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.machine.file_names import real
from vpfb_core.machine.files import require_writable


def require_file(option: str, out: str | Path, endings: Sequence[str], inputs: Mapping[str, Path | None]) -> None:
    """Check that a command can write one of its output files.

    Args:
        option: the option that names the file.
        out: the path as it was typed.
        endings: the endings of its format, in lower case; "" allows a name without an ending.
        inputs: the files and folders that the command reads, by the options that name them.
    Raises:
        ConfigError: the ending is that of another format, or an input would be replaced.
        DataError: the path is a folder, or cannot be written.
    """
    path = Path(out)
    if str(out).endswith(os.sep):
        raise DataError(f"cannot write {out}: it is a folder", hint="name a file in it")
    if path.suffix.lower() not in endings and not path.is_dir():
        raise ConfigError(f"cannot write '{out}': {option} is a {one_of([each for each in endings if each])} file")
    require_apart(out, inputs, option)
    require_writable(path)


def require_apart(out: str | Path, inputs: Mapping[str, Path | None], option: str = "-o") -> None:
    """Raise ConfigError if an output would replace a file that the command reads, or a file in a folder that it reads.

    A file in a folder may be replaced if vpfb has written it.
    """
    path = Path(out)
    if not path.is_file():
        return
    for name, read in inputs.items():
        if read is None or not read.exists():
            continue
        if read.samefile(path):
            raise ConfigError(f"{option} {out} is also what {name} reads", hint="choose another name")
        if read.is_dir() and real(path).is_relative_to(real(read)) and not _is_ours(path):
            raise ConfigError(
                f"{option} {out} would replace a file in {read}, which {name} reads", hint="choose another name"
            )


def _is_ours(path: Path) -> bool:
    from vpfb_core.data.own_files import is_own_picture
    from vpfb_core.uses.codes import is_code_table
    from vpfb_core.uses.ood.page import is_page
    from vpfb_core.uses.ood.ranking import is_ranking

    if path.suffix.lower() == ".png":
        return is_own_picture(path)
    with path.open("rb") as file:
        first_line = file.readline(100).decode("utf-8", "replace").rstrip()
    return is_ranking(first_line) or is_code_table(first_line) or is_page(first_line)
