"""Writing of drawn images to a grid, an array, a folder, an animation, or stdout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vpfb_cli.wording import counted
from vpfb_core.machine.files import flush_names, write_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from vpfb_cli.output import Output


class ImageWriter:
    """A writer that receives images in batches. It writes a folder at once, and a file when it is closed.

    Older samples in the folder are removed when the first new ones are written.

    Args:
        out: the value of `-o`.
        say: the output of the command.
    Raises:
        ConfigError: the format is unknown, stdout is not free, or a file of another program has the name of a sample.
    """

    def __init__(self, out: str, say: Output) -> None:
        from vpfb_core.uses import pictures

        self._stdout = say.binary_stdout("-o -") if out == "-" else None
        self.kind = pictures.output_format(out)
        self._out = Path(out)
        self._older = pictures.samples_in(self._out) if self.kind == "folder" else []
        self._say, self._count = say, 0
        self._images: list[Tensor] = []
        self._paths: list[Tensor] = []

    @property
    def wants_path(self) -> bool:
        """Whether the output shows the path of the flow, and not only its end."""
        return self.kind == "gif"

    def add(self, images: Tensor, path: Tensor | None = None) -> None:
        """Add the next images.

        Args:
            images: images in [0, 1], (N, C, H, W).
            path: the images at every step of the flow, (steps + 1, N, C, H, W); needed if `wants_path`.
        """
        from vpfb_core.uses import pictures

        if self.kind == "folder":
            self._replace_older()
            pictures.write_folder(self._out, images, self._count)
            self._count += len(images)
        elif path is not None:
            self._paths.append(path)
        else:
            self._images.append(images)

    def _replace_older(self) -> None:
        """Remove the older samples of the folder, before the first new one is written."""
        if self._older:
            for path in self._older:
                path.unlink(missing_ok=True)
            self._say.note(f"{counted(len(self._older), 'older sample')} in {self._out} replaced")
            self._older = []

    def close(self) -> None:
        """Write the file, or flush the folder to disk."""
        import torch

        from vpfb_core.uses import pictures

        if self.kind == "folder":
            flush_names(self._out)
            return
        if self.kind == "gif":
            frames = torch.stack([pictures.tile(step) for step in torch.cat(self._paths, dim=1)])
            write_bytes(self._out, pictures.gif(frames))
            return
        images = torch.cat(self._images)
        if self.kind == "npz":
            write_bytes(self._out, pictures.npz(images))
            return
        grid = pictures.png(pictures.tile(images))
        if self._stdout is None:
            write_bytes(self._out, grid)
        else:
            self._stdout(grid)
