"""What a ranking leads to besides its table: the page to look at, and the files that are moved or copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vpfb_cli.options import file_option, option
from vpfb_cli.progress import progress
from vpfb_core.errors import ConfigError, VPFBError, counted
from vpfb_core.machine.file_names import printable
from vpfb_core.machine.files import require_output_folder, write_bytes
from vpfb_core.machine.origin import Origin
from vpfb_core.names import SCORES

if TYPE_CHECKING:
    from vpfb_cli.output import Output
    from vpfb_core.data.in_memory import InMemory
    from vpfb_core.machine.relocation import Relocation
    from vpfb_core.uses.ood.ranking import Ranking
    from vpfb_core.uses.ood.reference_images import ReferenceImages
    from vpfb_core.uses.training_set import TrainingSet

FLAGGED = "Flagged images"
_IN_NOTE = 10  # how many new paths are listed


@dataclass(frozen=True)
class FlaggedFiles:
    """What happens to the files of flagged images."""

    move_to: Annotated[
        Path | None,
        file_option("--move-to DIR", FLAGGED, "Move the flagged images to this folder. Nothing is overwritten."),
    ] = None
    copy_to: Annotated[
        Path | None, file_option("--copy-to DIR", FLAGGED, "Copy the flagged images to this folder.")
    ] = None
    dry_run: Annotated[bool, option("--dry-run", FLAGGED, "Only list what would be moved or copied.")] = False

    @property
    def folder(self) -> Path | None:
        """The new folder; None if the files stay where they are."""
        return self.move_to or self.copy_to

    @property
    def moves(self) -> bool:
        """Whether files are moved. Otherwise they are copied."""
        return self.move_to is not None

    def require_usable(self, score: str) -> None:
        """Check the options before anything is loaded.

        Args:
            score: the score of the ranking.
        Raises:
            ConfigError: options contradict each other, the score flags no images, or the folder has the name of a file.
            DataError: the folder cannot be written to.
        """
        if self.move_to is not None and self.copy_to is not None:
            raise ConfigError("--move-to and --copy-to exclude each other", hint="give one of them")
        if self.dry_run and self.folder is None:
            raise ConfigError("--dry-run is for --move-to and --copy-to", hint="add one of them")
        if self.folder is None:
            return
        if score != SCORES[0]:
            raise ConfigError(f"{self._option} needs flagged images, and --score {score} flags none")
        if not self.dry_run:
            require_output_folder(self.folder)

    def require_files(self, images: InMemory) -> None:
        """Check before the work that the images come from files that can be placed in the folder.

        Raises:
            ConfigError: they do not, or the folder is in that of the files.
        """
        if self.folder is not None:
            if images.root is None:
                raise ConfigError(f"{self._option} is for a folder of image files, and '{images.name}' is none")
            self._plan(images, [])

    def plan(self, ranking: Ranking, images: InMemory) -> list[Relocation]:
        """The new paths of the files of flagged images; none if they stay where they are. Errors as in a plan."""
        return self._plan(images, [one.name for one in ranking.flagged])

    def _plan(self, images: InMemory, names: Sequence[str]) -> list[Relocation]:
        from vpfb_core.machine import relocation

        if self.folder is None or images.root is None:
            return []
        return relocation.plan(images.root, names, self.folder, moves=self.moves)

    @property
    def _option(self) -> str:
        return "--move-to" if self.moves else "--copy-to"

    def carry_out(self, say: Output, relocations: Sequence[Relocation]) -> dict[str, Any]:
        """Move or copy the files, or list what would happen. The part of the JSON document that says so."""
        from vpfb_core.machine import relocation

        if self.folder is None:
            return {}
        done, would = ("moved", "move") if self.moves else ("copied", "copy")
        if not self.dry_run:
            (relocation.move if self.moves else relocation.copy)(relocations)
        count = counted(len(relocations), "files")
        say.note(f"would {would} {count} to {self.folder}" if self.dry_run else f"{done} {count} to {self.folder}")
        for each in relocations[: _IN_NOTE if self.dry_run else 0]:
            say.note(f"  {printable(str(each.source))} -> {printable(str(each.target))}")
        if self.dry_run and len(relocations) > _IN_NOTE:
            say.note(f"  ... and {len(relocations) - _IN_NOTE:,} more; --json lists them all")
        if renamed := sum(each.renamed for each in relocations):
            say.note(f"{counted(renamed, 'files')} under a new name, because there is another file of that name")
        files = [{"file": each.name, "to": str(each.target)} for each in relocations]
        return {done: {"to": str(self.folder), "dry_run": self.dry_run, "files": files}}


def write_and_relocate(
    say: Output,
    html: Path | None,
    flagged: FlaggedFiles,
    ranking: Ranking,
    images: InMemory,
    training: TrainingSet | None,
    name: str | None,
    seed: int,
) -> dict[str, Any]:
    """Write the page of a ranking, and move or copy the files of flagged images. What is added to the JSON document.

    The page is drawn before the files are moved, because it shows them, and written afterwards.

    Args:
        say: the output of the command.
        html: the file of the page; None for no page.
        flagged: what happens to the files.
        ranking: the ranking.
        images: the images that were ranked.
        training: the data of the training of the model; None without a model.
        name: the name of the model; None without one.
        seed: the seed of the scores, which the page records.
    """
    relocations = flagged.plan(ranking, images)
    page = b""
    if html is not None:
        moved = {each.name: each.target for each in relocations} if flagged.moves and not flagged.dry_run else {}
        page = _draw(say, html.parent, ranking, images, training, name, seed, moved)
    relocated = flagged.carry_out(say, relocations)
    if html is not None:
        write_bytes(html, page)
        say.note(f"page: {html} ({len(page) / 1e6:.1f} MB)")
    return relocated


def _draw(
    say: Output,
    folder: Path,
    ranking: Ranking,
    images: InMemory,
    training: TrainingSet | None,
    name: str | None,
    seed: int,
    moved: Mapping[str, Path],
) -> bytes:
    """The page of a ranking, for a folder."""
    from vpfb_core.uses.ood import page
    from vpfb_core.uses.ood.reference_images import ReferenceImages

    count = min(len(ranking.ranked), page.MOST)
    others = "each compared with the others" if name is None else f"compared with those that {name} was trained on"
    summary = [f"{counted(len(images), 'pictures')}, {others}."]
    if ranking.ranked[0].p_value is not None:
        expected = ranking.flag * len(images)
        summary.append(
            f"{len(ranking.flagged):,} {'is' if len(ranking.flagged) == 1 else 'are'} flagged; "
            f"without any outlier, {expected:.2g} would be expected."
        )
    if count < len(images):
        summary.append(f"The page shows the first {count:,}; the table of scores has all of them.")
    reference = ReferenceImages.same(images) if training is None else _reference_images(say, ranking, training, count)
    with progress(say, "drawing the page") as bar:
        return page.page(
            ranking, images, reference, title=f"Outliers in {images.name}", summary=summary, folder=folder,
            moved=moved, origin=Origin.of(seed, name),
            on_picture=lambda n: bar.update(n / count),
        )  # fmt: skip


def _reference_images(say: Output, ranking: Ranking, training: TrainingSet, count: int) -> ReferenceImages | None:
    """The training images that the page shows; None with a note if they are not at hand."""
    from vpfb_core.uses.ood.reference_images import nearest_training_images

    try:
        return nearest_training_images(training, ranking, count)
    except VPFBError as error:
        say.note(f"the page shows no training images: {error.message}")
        return None
