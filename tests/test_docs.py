"""The documents speak of the code as it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vpfb_core

ROOT = Path(vpfb_core.__file__).parents[1]
CORE = ROOT / "vpfb_core"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
LINKED = [*PAGES, *(page for page in (ROOT / "README.md", ROOT / "benchmarks" / "README.md") if page.exists())]

pytestmark = pytest.mark.skipif(not PAGES, reason="the documents are not installed with the package")


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The fragments by which a link reaches the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", prose(page)):
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_files_of_results_that_a_page_names_exist(page: Path) -> None:
    """A section of figures ends with a paragraph `Files:`, which names them without `.json`."""
    named = re.findall(r"^Files?: (.*?)\n\n", prose(page) + "\n\n", re.M | re.S)
    files = [name for paragraph in named for name in re.findall(r"`([a-z0-9-]+)`", paragraph)]
    assert [name for name in files if not (ROOT / "benchmarks" / "results" / "cpu" / f"{name}.json").exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "guides"], ids=name_of)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Relative to the repository or to `vpfb_core`, with or without the folder. Guides name files of the reader."""
    named = re.findall(r"`(?:python )?([\w/]+(?:\.py|/))`", prose(page))
    absent = {
        name
        for name in named
        if not (ROOT / name).exists() and not (CORE / name).exists() and ("/" in name or not any(CORE.rglob(name)))
    }
    assert absent == set()


def layers() -> dict[str, int]:
    """Subpackage or module → layer, as the table of the architecture page has them."""
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.M)
    return {part.strip("`/ ").removesuffix(".py"): int(layer) for layer, parts in rows for part in parts.split(",")}


def part_of(module: str) -> str:
    """vpfb_core.machine.files → machine."""
    return module.split(".")[1]


def imports() -> Iterator[tuple[str, str]]:
    """(module, module that it imports from) within the core, those inside functions among them."""
    for file in CORE.rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((module, name.name) for name in node.names if name.name.startswith("vpfb_core."))
            elif isinstance(node, ast.ImportFrom) and node.module == "vpfb_core":
                yield from ((module, f"vpfb_core.{name.name}") for name in node.names)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vpfb_core."):
                yield module, str(node.module)


def test_every_subpackage_has_a_layer_on_the_architecture_page() -> None:
    parts = {path.stem for path in CORE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__", "assets"} == layers().keys()


def test_imports_point_down_the_layers_of_the_architecture_page() -> None:
    layer = layers()
    upwards = [
        f"{module} imports {imported}"
        for module, imported in imports()
        if part_of(module) != "__init__" and layer[part_of(imported)] > layer[part_of(module)]
    ]
    assert upwards == []


def test_the_python_of_the_energies_page_runs() -> None:
    page = (ROOT / "docs" / "energies.md").read_text("utf-8")
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S):
        exec(block.replace('method="ode"', 'method="ode", rtol=0.1'), found)  # a loose tolerance is quick
    assert found["energy"].shape == (16,)
    assert found["score"].shape == found["x"].shape
    assert found["explicit"].shape == found["bits"].shape == (16,)
    assert found["flow"].isfinite().all()
