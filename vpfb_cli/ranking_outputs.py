"""What is written of a ranking besides its table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vpfb_cli.progress import progress
from vpfb_cli.wording import counted, size
from vpfb_core.machine.files import write_bytes

if TYPE_CHECKING:
    from vpfb_cli.output import Output
    from vpfb_core.data.in_memory import InMemory
    from vpfb_core.uses.ood.ranking import Ranking


def write_page(say: Output, out: Path, ranking: Ranking, images: InMemory, model: str) -> None:
    """Write the page of a ranking (`--html`), and say how large it is.

    Args:
        say: the output of the command.
        out: the file.
        ranking: the ranking.
        images: the images that were ranked.
        model: the name of the model.
    """
    from vpfb_core.uses.ood import page

    count = min(len(ranking.ranked), page.MOST)
    summary = [
        f"{counted(len(images), 'picture')}, compared with those that the model {model} was trained on.",
        "The greatest outliers come first.",
    ]
    if count < len(images):
        summary.append(f"The page shows the first {count:,}; the table of scores has all of them.")
    with progress(say, "drawing the page") as bar:
        content = page.page(
            ranking, images, title=f"Outliers in {images.name}", summary=summary, folder=out.parent,
            on_picture=lambda n: bar.update(n / count),
        )  # fmt: skip
    write_bytes(out, content)
    say.note(f"page: {out} ({size(len(content))}, {counted(count, 'picture')})")
