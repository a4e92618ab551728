"""Writing of drawn images to a grid, an array, a folder, an animation, or stdout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vpfb_cli.outputs import require_apart
from vpfb_core.errors import ConfigError, counted
from vpfb_core.machine.files import filling, replacing, require_writable, require_writable_folder, write_bytes
from vpfb_core.machine.launch import process_rank
from vpfb_core.machine.limits import memory_share
from vpfb_core.machine.origin import UNKNOWN, Origin

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor

    from vpfb_cli.output import Output
    from vpfb_core.model.trained import TrainedModel


class ImageWriter:
    """A writer that receives images in batches. It writes a folder or an array at once, and other files at the end.

    Therefore a folder and an array can have any number of images. Older samples in the folder are removed when the
    first new ones are written.

    Args:
        out: the value of `-o`.
        say: the output of the command.
        inputs: the files that the command reads, by the options that name them.
        animated: whether the command can show the path from noise.
    Raises:
        ConfigError: the format is unknown, stdout is not free, an input would be replaced, or a file of another program
            has the name of a sample.
        DataError: the output cannot be written.
    """

    def __init__(self, out: str, say: Output, inputs: Mapping[str, Path | None], *, animated: bool) -> None:
        from vpfb_core.uses import pictures

        self._stdout = say.binary_stdout("-o -") if out == "-" else None
        self.kind = pictures.output_format(out, animated=animated)
        self._out = Path(out)
        self._folder = self._out  # where the samples of a folder are written first
        self._older: list[Path] = []
        if self.kind == "folder":
            require_writable_folder(self._out)
            self._older = pictures.samples_in(self._out)
        elif self._stdout is None:
            require_apart(out, inputs)
            require_writable(self._out)
        self._say, self._count, self._origin = say, 0, UNKNOWN
        self._images: list[Tensor] = []
        self._paths: list[Tensor] = []
        self._append: Callable[[Tensor], None] | None = None
        self.table: bytes | None = None  # the result as a table, which only rows are

    @property
    def wants_path(self) -> bool:
        """Whether the output shows the path of the flow, and not only its end."""
        return self.kind == "gif"

    @contextlib.contextmanager
    def writing(
        self,
        count: int,
        model: TrainedModel,
        origin: Origin,
        *,
        frames: int = 1,
        at_once: bool = False,
        labels: Mapping[str, np.ndarray] | None = None,
    ) -> Iterator[None]:
        """Inside this context, the writer receives `count` images of the model, which are written by its end.

        Only the first process of a job writes. If the context ends with an error, the previous file is not changed.

        Args:
            origin: the origin of the images, which is recorded in the files.
            frames: the number of frames of an animation.
            at_once: whether all images are added in one call, whatever their number.
            labels: the classes of the images, which an archive keeps (`pictures.npz`).
        Raises:
            ConfigError: the file or the memory cannot hold that many images.
        """
        from vpfb_core.uses import pictures

        shape, self._origin = model.shape, origin
        if self.kind not in ("folder", "npz"):
            fewer = self.wants_path or at_once
            instead = "ask for fewer images" if fewer else ".npz and a folder take any number of images"
            pictures.require_grid(count, shape, frames=frames if self.wants_path else 1, instead=instead)
        if at_once:
            _require_memory(count, shape)
        if not process_rank().first:
            yield
        elif self.kind == "npz":
            with replacing(self._out) as file, pictures.npz(file, count, shape, labels, origin) as self._append:
                yield
        elif self.kind == "folder":
            with filling(self._out, self._older) as self._folder:
                yield
            if self._older:
                self._say.note(f"{counted(len(self._older), 'older samples')} in {self._out} replaced")
        else:
            yield
            self._finish()

    def add(self, images: Tensor, path: Tensor | None = None) -> None:
        """Add the next images.

        Args:
            images: images in [0, 1], (N, C, H, W).
            path: the images at every step of the flow, (steps + 1, N, C, H, W); needed if `wants_path`.
        """
        from vpfb_core.data.image_statistics import to_bytes
        from vpfb_core.uses import pictures

        if self.kind == "folder":
            pictures.write_folder(self._folder, images, self._count, self._origin)
            self._count += len(images)
        elif self._append is not None:
            self._append(images)
        elif path is not None:
            self._paths.append(to_bytes(path))
        else:
            self._images.append(to_bytes(images))

    def _finish(self) -> None:
        """Write the file."""
        import torch

        from vpfb_core.uses import pictures

        if self.kind == "gif":
            frames = torch.stack([pictures.tile(step) for step in torch.cat(self._paths, dim=1)])
            write_bytes(self._out, pictures.gif(frames, origin=self._origin))
            return
        grid = pictures.png(pictures.tile(torch.cat(self._images)), self._origin)
        if self._stdout is None:
            write_bytes(self._out, grid)
        else:
            self._stdout(grid)


def _require_memory(count: int, shape: Sequence[int]) -> None:
    """Raise ConfigError if the memory cannot hold that many images together with the numbers of their computation."""
    channels, height, width = shape
    copies = 4  # of float32 numbers: the starts, the ends, and what becomes of them
    size, available = copies * 4 * channels * height * width * count, memory_share()
    if size > available:
        raise ConfigError(
            f"{count:,} images of {height}x{width} at once would take {size / 2**30:,.0f} GiB",
            hint=f"there are {available / 2**30:.1f} GiB for them here; draw fewer, and others with another --seed",
        )
