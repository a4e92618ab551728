"""What vpfb records in the files that it writes: its name, the models, and the seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vpfb_core.machine.file_names import printable

KEYWORD, OURS = "Software", "vpfb"  # a keyword of the PNG standard, and its text; comments of GIFs begin with the text


@dataclass(frozen=True)
class Origin:
    """The origin of a file. It has no date and no folder, so that equal work gives equal files.

    Attributes:
        model: the names of the models; None without a model.
        seed: the seed of the random numbers; None if there were none.
    """

    model: str | None = None
    seed: int | None = None

    @classmethod
    def of(cls, seed: int, *models: str | None) -> Origin:
        """The origin of what a command writes.

        Args:
            seed: the seed of the command.
            models: the models as the command names them, paths or names of built-in models; None is no model.
        """
        return cls(", ".join(short_name(each) for each in models if each is not None) or None, seed)

    def texts(self) -> dict[str, str]:
        """What is recorded in a PNG file, by keyword."""
        facts = {"model": self.model and printable(self.model), "seed": self.seed}
        return {KEYWORD: OURS, **{name: str(value) for name, value in facts.items() if value is not None}}

    def comment(self) -> str:
        """The same in one line, such as "vpfb, model digits, seed 0"."""
        return ", ".join([OURS, *(f"{name} {text}" for name, text in self.texts().items() if name != KEYWORD)])


UNKNOWN = Origin()


def short_name(model: str) -> str:
    """The name of a model without its folders: that of its run, of its file, or of the built-in model."""
    path = Path(model)
    in_a_run = path.name == "model.safetensors" and path.parent.name
    return path.parent.name if in_a_run else path.stem
