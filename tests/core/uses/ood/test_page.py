"""The page of a ranking: its texts are never markup, it loads nothing, and its pictures are those of the files."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vpfb_core import data
from vpfb_core.data import ImageSet, InMemory
from vpfb_core.model.reference import KINDS
from vpfb_core.uses.ood.page import is_page, page
from vpfb_core.uses.ood.ranking import Ranked, Ranking
from vpfb_core.uses.ood.reference_images import ReferenceImages

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = [
    "</script><script>alert(1)</script>.png",
    "<!--<script>.png",
    "a \"quoted\" 'name' & more.png",
    "line\nbreak.png",
    "@@DATA@@ @@TITLE@@.png",
    "bytes \udcff\udcfe.png",
    "right \u202eto left.png",
    "\u2028separator.png",
]


class Parsed(HTMLParser):
    """The elements of a page, in order, and the texts of its scripts."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._open = ""
        self.feed(content.decode("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._open = ""

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])

    def only(self, **attributes: str) -> tuple[str, dict[str, str | None]]:
        (found,) = (
            (tag, has) for tag, has in self.elements if all(has.get(key) == value for key, value in attributes.items())
        )
        return found


def ranking_of(names: Sequence[str], scores: Sequence[float] | None = None, **figures: float | None) -> Ranking:
    given = scores or [float(-index) for index in range(len(names))]
    ranked = [Ranked(index, name, given[index], figures) for index, name in enumerate(names)]
    return Ranking(ranked, ("file", "score", *figures), None)


def images_of(count: int, names: Sequence[str] | None = None, root: Path | None = None) -> ImageSet:
    values = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 8, 8)
    return ImageSet("set", values.clone(), files=None if names is None else tuple(names), root=root)


def parsed(ranking: Ranking, images: InMemory, **options: Any) -> Parsed:
    given = {"reference": None, "title": "a title", "summary": ["A sentence."], "folder": Path("pages"), **options}
    return Parsed(page(ranking, images, **given))


def test_no_name_changes_the_markup_and_every_name_arrives_as_it_is() -> None:
    plain = [f"{index}.png" for index in range(len(HOSTILE))]
    hostile = parsed(ranking_of(HOSTILE), images_of(len(HOSTILE), HOSTILE), title=HOSTILE[0], summary=[HOSTILE[1]])
    harmless = parsed(ranking_of(plain), images_of(len(plain), plain))
    assert hostile.elements == harmless.elements
    assert hostile.scripts[1:] == harmless.scripts[1:]
    assert [picture["name"] for picture in hostile.document["pictures"]] == [
        *HOSTILE[:3],
        r"line\nbreak.png",
        HOSTILE[4],
        r"bytes \xff\xfe.png",
        r"right \u202eto left.png",
        r"\u2028separator.png",
    ]
    assert hostile.document["summary"] == [HOSTILE[1]]
    assert hostile.texts.count(HOSTILE[0]) == 2, "the title and the heading"
    assert not re.search(r"[<>&]", hostile.scripts[0]), "nothing in the data ends the element or begins a comment"


def test_a_page_loads_nothing() -> None:
    found = parsed(ranking_of(["a.png"]), images_of(1, ["a.png"], Path("photos")))
    tag, policy = found.only(**{"http-equiv": "Content-Security-Policy"})
    assert tag == "meta"
    assert str(policy["content"]).startswith("default-src 'none'; img-src data:;")
    assert not [tag for tag, has in found.elements if {"src", "srcset", "poster"} & set(has) or tag in ("link", "base")]
    assert not [has for tag, has in found.elements if "href" in has and not str(has["href"]).startswith("#")]
    assert "url(" not in page(ranking_of([]), images_of(0), None, title="", summary=[], folder=Path()).decode()


def test_a_page_can_be_used_with_a_keyboard_and_a_screen_reader() -> None:
    found = parsed(ranking_of(["a.png"]), images_of(1, ["a.png"]))
    tags = [tag for tag, _ in found.elements]
    assert found.elements[tags.index("html")][1]["lang"] == "en"
    assert [has.get("role") for tag, has in found.elements if tag == "table"] == ["table"]
    assert found.only(id="status")[1] == {"id": "status", "role": "status", "aria-live": "polite"}
    assert found.only(id="histogram")[1]["role"] == "img"
    labelled = [has for tag, has in found.elements if tag in ("input", "select")]
    assert len(labelled) == tags.count("label"), "each field is in a label"
    assert {has.get("type") for tag, has in found.elements if tag == "button"} <= {"button", "reset"}
    script = found.scripts[1]
    for words in ("aria-sort", 'role: "columnheader"', 'role: "rowheader"', '"aria-label": `Choose ', "ArrowDown"):
        assert words in script


def test_figures_are_numbers_with_six_digits_and_columns_without_values_are_left_out() -> None:
    ranking = ranking_of(["a", "b", "c"], [math.inf, 1.23456789, math.nan], energy=-math.inf, bits_per_dim=None)
    document = parsed(ranking, images_of(3)).document
    assert [column["label"] for column in document["columns"]] == ["Score", "Energy"]
    assert [picture["figures"] for picture in document["pictures"]] == [
        ["Infinity", "-Infinity"],
        [1.23457, "-Infinity"],
        [None, "-Infinity"],
    ]
    assert document["histogram"]["low"] == document["histogram"]["high"] == 1.23456789
    assert sum(document["histogram"]["counts"]) == 1


def test_the_histogram_counts_every_score_and_the_page_shows_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpfb_core.uses.ood.page.MOST", 7)
    names = [f"{index}.png" for index in range(30)]
    document = parsed(ranking_of(names), images_of(30, names)).document
    assert sum(document["histogram"]["counts"]) == 30
    assert (document["histogram"]["low"], document["histogram"]["high"]) == (-29, 0)
    assert document["total"] == 30
    assert [picture["name"] for picture in document["pictures"]] == names[:7]
    assert [picture["rank"] for picture in document["pictures"]] == [1, 2, 3, 4, 5, 6, 7]
    assert len(document["thumbnails"]) == 7


def test_the_neighbours_of_a_picture_are_shown_with_their_names_and_each_thumbnail_is_kept_once() -> None:
    ranked = [Ranked(0, "a.png", 2, {}, nearest=(7, 5)), Ranked(1, "b.png", 1, {}, nearest=(5, 9))]
    reference = ReferenceImages(
        images_of(3), {5: 0, 7: 1, 9: 2}, ["five", "seven", "<nine>"], "Nearest training pictures"
    )
    document = parsed(Ranking(ranked, ("file", "score"), None), images_of(2), reference=reference).document
    assert [[name for _, name in picture["nearest"]] for picture in document["pictures"]] == [
        ["seven", "five"],
        ["five", "<nine>"],
    ]
    assert len(document["thumbnails"]) == 5
    assert document["neighbours"]["label"] == "Nearest training pictures"
    other = parsed(
        Ranking([Ranked(0, "a.png", 2, {}, nearest=(1,))], ("file", "score"), None),
        images := images_of(2, ["a.png", "b.png"]),
        reference=ReferenceImages.same(images),
    ).document
    assert other["pictures"][0]["nearest"] == [[1, "b.png"]]
    assert len(other["thumbnails"]) == 2


def test_the_cut_is_between_the_flagged_scores_and_the_others_and_a_flagged_picture_says_what_stood_out() -> None:
    ranked = [
        Ranked(
            0,
            "a.png",
            9.0,
            {},
            0.001,
            True,
            {"content": 0.004, "shape": 0.5, "detail": 0.5, "shading": 0.5, "recording": 0.0001},
        ),
        Ranked(
            1,
            "b.png",
            5.0,
            {},
            0.01,
            True,
            {"content": 0.02, "shape": 0.5, "detail": 0.5, "shading": 0.5, "recording": 0.03},
        ),
        Ranked(
            2,
            "c.png",
            4.0,
            {},
            0.02,
            False,
            {"content": 0.02, "shape": 0.5, "detail": 0.5, "shading": 0.5, "recording": 0.01},
        ),
        Ranked(
            3,
            "d.png",
            1.0,
            {},
            0.9,
            False,
            dict.fromkeys(KINDS, 0.6),
        ),
    ]
    document = parsed(Ranking(ranked, ("file", "score"), None, 0.01), images_of(4)).document
    assert (document["cut"], document["flagged"]) == (4.5, 2)
    assert sum(document["histogram"]["flagged"]) == 2
    assert [picture["stood_out"] for picture in document["pictures"]] == [
        [["recording", 0.0001], ["content", 0.004]],
        [["content", 0.02]],
        [["recording", 0.01]],
        [],
    ]
    assert {kind for kind in document["kinds"] if document["kinds"][kind]["meaning"]} == set(KINDS)


def thumbnail(document: dict[str, Any], picture: int) -> Image.Image:
    content = document["thumbnails"][document["pictures"][picture]["thumbnail"]]
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_small_picture_keeps_each_of_its_pixels() -> None:
    images = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    document = parsed(ranking_of(["a", "b"]), ImageSet("set", images)).document
    for index in range(2):
        shown = torch.from_numpy(np.array(thumbnail(document, index).convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(shown, images[index])


def test_a_picture_file_is_shown_larger_than_the_model_saw_it(tmp_path: Path) -> None:
    Image.new("RGB", (400, 300), "red").save(tmp_path / "a.png")
    Image.new("RGB", (400, 300), "blue").save(tmp_path / "b.png")
    loaded = data.load(str(tmp_path), size=8)
    (tmp_path / "b.png").unlink()
    document = parsed(ranking_of(["a.png", "b.png"]), loaded).document
    assert thumbnail(document, 0).size == (128, 128)
    red, green, blue = np.array(thumbnail(document, 0).convert("RGB"))[64, 64].tolist()
    assert red > 240
    assert max(green, blue) < 15
    assert thumbnail(document, 1).size == (8, 8), "a file that has disappeared is shown as it was read"


def test_paths_are_absolute_and_links_lead_from_the_page_to_the_files(tmp_path: Path) -> None:
    root, odd = tmp_path / "my photos", "50% of\n#1 \udcff?.png"
    names = ["sub/a b.png", odd]
    document = parsed(ranking_of(names), images_of(2, names, root), folder=tmp_path / "pages").document
    first, second = document["pictures"]
    assert (first["path"], first["word"]) == (f"{root}/sub/a b.png", None)
    assert first["href"] == "../my%20photos/sub/a%20b.png"
    assert second["word"] == rf"$'{root}/50% of\x0a#1 \xff?.png'", "a word of a shell, since a line cannot hold it"
    assert second["href"] == "../my%20photos/50%25%20of%0A%231%20%FF%3F.png"
    beside = parsed(ranking_of(names), images_of(2, names, root), folder=root).document
    assert beside["pictures"][0]["href"] == "./sub/a%20b.png", "a name with a colon would be an address"


def test_images_without_files_have_no_links() -> None:
    document = parsed(ranking_of(["digits#0"]), images_of(1)).document
    assert (document["pictures"][0]["href"], document["pictures"][0]["path"]) == (None, "digits#0")


@pytest.mark.parametrize("first_line", ["file,score", "<!doctype html>"])
def test_a_page_is_recognised_by_its_first_line(first_line: str) -> None:
    content = page(ranking_of([]), images_of(0), None, title="", summary=[], folder=Path())
    assert is_page(content.decode().splitlines()[0])
    assert not is_page(first_line)


def test_the_template_is_a_file_of_the_package_and_of_its_wheel() -> None:
    template = resources.files("vpfb_core").joinpath("assets", "outliers.html")
    assert template.is_file()
    project = Path(str(resources.files("vpfb_core"))).parent / "pyproject.toml"
    if project.is_file():
        import tomllib

        kept = tomllib.loads(project.read_text("utf-8"))["tool"]["setuptools"]["package-data"]["vpfb_core"]
        assert "assets/*" in kept


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
def test_a_browser_shows_every_name_as_a_text_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(page(ranking_of(HOSTILE), images_of(8, HOSTILE), None, title=HOSTILE[0],
                                              summary=[], folder=tmp_path))  # fmt: skip
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run([*command, (tmp_path / "page.html").as_uri()], capture_output=True, timeout=120, check=True)
    shown = Parsed(done.stdout)
    assert len([tag for tag, has in shown.elements if tag == "tr" and has.get("role") == "row"]) == 1 + len(HOSTILE)
    assert [tag for tag, _ in shown.elements].count("script") == 2, "no name has become an element"
    names = [picture["name"] for picture in shown.document["pictures"]]
    assert [has["aria-label"] for _, has in shown.elements if has.get("type") == "checkbox"] == [
        f"Choose {name}" for name in names
    ]
    assert "8 of 8 pictures shown, 0 chosen" in shown.texts
