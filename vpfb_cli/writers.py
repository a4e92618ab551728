"""The writer of samples, by the kind of data of the model that draws them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vpfb_cli.image_writer import ImageWriter
from vpfb_cli.row_writer import RowWriter
from vpfb_core.errors import VPFBError
from vpfb_core.model import description
from vpfb_core.model.runs import find_model

if TYPE_CHECKING:
    from vpfb_cli.output import Output

Writer = ImageWriter | RowWriter


@dataclass(frozen=True)
class Format:
    """How samples of a kind of data are written.

    Attributes:
        writer: the class of the writer.
        ending: the ending of the default output.
        next: the option of `vpfb sample` that a finished run suggests.
    """

    writer: type[ImageWriter] | type[RowWriter]
    ending: str
    next: str


FORMATS: dict[str, Format] = {
    "images": Format(ImageWriter, ".png", "-n 64 -o grid.png"),
    "table": Format(RowWriter, ".csv", "-n 1000 -o rows.csv"),
}


def kind_of(model: str | None) -> str:
    """The kind of data of a model, from the header of its file; "images" if it cannot be read, as is said later."""
    try:
        return description.read_header(find_model(model)).kind
    except VPFBError:
        return "images"


def open_writer(
    kind: str, out: str | None, name: str, say: Output, inputs: Mapping[str, Path | None], *, animated: bool
) -> tuple[Writer, str]:
    """The writer of samples, and the output that it writes.

    Args:
        kind: the kind of data.
        out: the value of `-o`; None is the name with the ending of the kind.
        name: the name of the default output, without its ending.
        say: the output of the command.
        inputs: the files that the command reads, by the options that name them.
        animated: whether the command can show the path from noise.
    """
    chosen = FORMATS[kind]
    output = f"{name}{chosen.ending}" if out is None else out
    return chosen.writer(output, say, inputs, animated=animated), output
