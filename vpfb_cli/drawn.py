"""Where drawn images go: a grid, an array, a folder, or stdout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def write_images(kind: str, out: str, images: Tensor, to_stdout: Callable[[bytes], None] | None) -> None:
    """Write images in the format `kind` of `pictures.output_format`, other than a .gif.

    Args:
        images: in [0, 1], (N, C, H, W).
        to_stdout: writes a PNG there, where that was asked for.
    """
    from vpfb_core.machine.files import write_bytes
    from vpfb_core.uses import pictures

    if kind == "folder":
        pictures.write_folder(Path(out), images)
    elif kind == "npz":
        write_bytes(Path(out), pictures.npz(images))
    elif to_stdout is not None:
        to_stdout(pictures.png(pictures.tile(images)))
    else:
        write_bytes(Path(out), pictures.png(pictures.tile(images)))
