"""The commands in the documents and in the help texts: their options exist, and the first steps of a newcomer run."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runner import Vpfb
from PIL import Image

import vpfb_core
from vpfb_cli import app
from vpfb_core import data
from vpfb_core.model.runs import builtin_models

ROOT = Path(vpfb_core.__file__).parents[1]
PAGES = [
    page for page in (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md"))
    if page.exists()
]  # fmt: skip
GROUP: Any = app.build()

pytestmark = pytest.mark.skipif(not PAGES, reason="the documents are not installed with the package")


def arguments(line: str) -> list[str] | None:
    """The arguments of vpfb in a line, without the comment after it; None if the line runs another program."""
    found = re.search(r"(?:^|&& )vpfb (.*)|-m vpfb_cli (.*)", line.strip())
    return None if found is None else shlex.split((found[1] or found[2]).split("  #")[0])


def in_blocks(page: Path) -> Iterator[list[str]]:
    """The command lines in the blocks of a page."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        if not language:
            yield from (words for line in block.splitlines() if (words := arguments(line)))


def in_sentences(page: Path) -> Iterator[list[str]]:
    """The commands that a page mentions in its sentences, which may be incomplete."""
    sentences = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    for code in re.findall(r"`([^`]+)`", sentences):
        yield from ([words] if (words := arguments(" ".join(code.split()))) else [])


def parse(words: list[str]) -> None:
    context = GROUP.make_context("vpfb", [], resilient_parsing=True)
    name, command, rest = GROUP.resolve_command(context, words)
    command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_command_lines_of_a_page_are_valid(page: Path) -> None:
    for words in in_blocks(page):
        parse(words)


@pytest.mark.parametrize("command", app.COMMANDS, ids=lambda command: command.__name__)
def test_the_examples_of_a_help_text_are_valid(command: Any) -> None:
    examples = inspect.cleandoc(command.__doc__).partition("Example:")[2].strip().splitlines()
    assert examples
    for line in examples:
        words = arguments(line)
        assert words
        parse(words[: words.index("|")] if "|" in words else words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_options_that_a_page_mentions_exist(page: Path) -> None:
    for words in in_sentences(page):
        command = GROUP.commands.get(words[0])
        if command is None:
            assert words[0] in ("COMMAND", "--help"), words
            continue
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        typed = {word for word in words[1:] if re.match(r"--?[a-z]", word)} - {"--help"}
        assert typed <= options, words


SMALL = {  # command → options that make it quick
    "train": "--set widths=[4] --batch-size 4 --threads 1",
    "sample": "--nfe 3",
    "interpolate": "-n 3",
    "compose": "-n 1 --levels 3 --mcmc none",
    "ood": "--limit 20",
}


def shortened(words: list[str]) -> list[str]:
    """The arguments of a command with small numbers and a small network."""
    line = re.sub(r"--time-budget \S+|--steps \d+", "--steps 1", re.sub(r"\B-n \d+", "-n 2", shlex.join(words)))
    rows = any(word.endswith(".csv") or word == "moons" for word in words)
    if words[0] == "train" and rows:  # long enough to be calibrated
        return [*shlex.split(line), *shlex.split("--set width=8 --threads 1 --steps 60")]
    more = SMALL.get(words[0], "") + (" --steps 1" if words[0] == "train" and "--steps" not in line else "")
    return shlex.split(line) + shlex.split(more)


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["own-folder", "outliers", "compose", "energies"])
def test_a_guide_can_be_followed_from_top_to_bottom(vpfb: Vpfb, guide: str) -> None:
    page, found = ROOT / "docs" / "guides" / f"{guide}.md", dict[str, Any]()
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        if language == "python":
            exec(compile(block, str(page), "exec"), found)
            continue
        for words in filter(None, map(arguments, block.splitlines())):
            absent = [word for word in words if word in ("./new", "./imgs") and not Path(word).exists()]
            if absent or {"--conditional", "--train"} & set(words):  # folders that the guide has not, and minutes
                continue
            done = vpfb(*shortened(words))
            assert done.code == 0, (words, done.err)
    for picture in re.findall(r"\]\((\.\./pictures/\S+)\)", page.read_text("utf-8")):
        assert (page.parent / picture).is_file(), picture


def test_the_picture_of_the_folder_in_the_guide_is_the_one_that_a_reader_gets(vpfb: Vpfb) -> None:
    page = ROOT / "docs" / "guides" / "own-folder.md"
    exec(re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)[0], {})
    assert vpfb("data", "./imgs", "--grid", "look.png").code == 0
    ours, theirs = (np.asarray(Image.open(path), int) for path in ("look.png", page.parent / "../pictures/look.png"))
    assert np.abs(ours - theirs).max() <= 2, "grey levels, for another rounding of the shapes"


def test_the_tour_of_the_readme_and_the_first_trainings_run(vpfb: Vpfb) -> None:
    """Except for commands that need a download, several processes, or minutes."""
    digits = data.load("digits", limit=30).images[:, 0].numpy()
    for index, image in enumerate(digits):
        Path("imgs").mkdir(exist_ok=True)
        Image.fromarray(image).save(Path("imgs", f"{index}.png"))
    for name in ("a.png", "b.png"):
        Image.fromarray(np.asarray(digits[0])).save(name)
    ran = []
    for page in (ROOT / "README.md", ROOT / "docs" / "training.md"):
        for words in in_blocks(page):
            if {"mnist", "cifar", "--known"} & set(words) or "50000" in words:
                continue
            if words[0] == "score":  # needs a calibrated model
                shutil.copy(builtin_models()["digits"], "runs/001-imgs/model.safetensors")
            done = vpfb(*shortened(words))
            assert done.code == 0, (words, done.err)
            ran.append(words[0])
    assert {"train", "sample", "interpolate", "compose", "score", "data", "info"} <= set(ran)


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.M | re.S):
        shorter = block.replace("steps=2000", "steps=1, widths=(4,), batch_size=4, threads=1")
        shorter = shorter.replace("sample(64,", "sample(4,")
        exec(shorter.replace("encode(drawn.images)", "encode(drawn.images, rtol=0.1)"), found)
    assert found["logp"].shape == found["scores"].shape == (4,)
    assert found["loss"].requires_grad
