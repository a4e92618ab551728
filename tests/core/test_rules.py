"""The rules of the code: which modules may mention what, and how modules are named.

That imports point down the layers of docs/architecture.md is tested in `test_docs.py`.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vpfb_core
from vpfb_core import names

ROOT = Path(vpfb_core.__file__).parent
LOOSE = {"__init__", "api", "errors", "names", "settings"}
# The public names of VPFB's building blocks are given here, and what people type there.
PUBLIC = {ROOT / "__init__.py", ROOT / "names.py"}


def sources(*, outside: Iterable[str]) -> list[Path]:
    """The modules of both packages outside of files and folders of vpfb_core."""
    found = [*ROOT.rglob("*.py"), *(ROOT.parent / "vpfb_cli").rglob("*.py")]
    left_out = {ROOT / each for each in outside}
    return [path for path in found if not left_out & {path, *path.parents} and path not in PUBLIC]


@cache
def imported(path: Path) -> tuple[str, ...]:
    """What a file imports, each as module.name or as a module."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found += (f"{node.module}.{each.name}" for each in node.names)
        elif isinstance(node, ast.Import):
            found += (each.name for each in node.names)
    return tuple(found)


def words(path: Path) -> Iterator[tuple[str, int]]:
    """Every word of a file, those of names, strings and comments, and its line."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for word in re.findall(r"[A-Za-z0-9φΦ_]+", line):
            for part in word.split("_"):
                yield part.lower(), number


def test_only_the_path_and_the_methods_that_train_on_it_mention_the_arc() -> None:
    own = {"angle", "angles", "φ", "phi", "arc", "homotopy", "homotopies"}
    on_the_path = ("methods/path", "methods/vpfb", "methods/flow_matching.py")
    assert [
        (path, line, word) for path in sources(outside=on_the_path) for word, line in words(path) if word in own
    ] == []


def method_modules() -> set[str]:
    """The file or folder of each method, as the third part of the names of its modules."""
    return {row.module.split(".")[2] for row in names.METHODS.values()}


def test_no_method_imports_another() -> None:
    for own_name in method_modules():
        own = ROOT / "methods" / own_name
        for path in [*own.rglob("*.py")] or [own.with_suffix(".py")]:
            of_methods = {each.split(".")[2] for each in imported(path) if each.startswith("vpfb_core.methods.")}
            assert of_methods & method_modules() <= {own_name}, path


def test_nothing_outside_of_methods_names_a_method() -> None:
    private = tuple(f"vpfb_core.methods.{each}" for each in (*method_modules(), "path"))
    for path in sources(outside=["methods"]):
        assert [each for each in imported(path) if each.startswith(private)] == [], path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names.METHODS.keys() - {"vpfb"}, (path, node.lineno)
            if isinstance(node, ast.Compare):  # "vpfb" is also the name of the program
                compared = [each.value for each in node.comparators if isinstance(each, ast.Constant)]
                assert "vpfb" not in compared, (path, node.lineno)


@pytest.mark.parametrize("folder", ["", "methods", "uses"])
def test_parts_do_not_import_each_other_in_a_circle(folder: str) -> None:
    """A part is a module or a subpackage. What a package offers itself, such as `methods.find`, is above its parts."""
    prefix = f"vpfb_core.{folder}." if folder else "vpfb_core."
    files = {part.stem: [part, *part.rglob("*.py")] for part in (ROOT / folder).iterdir() if part.stem != "__init__"}
    needs = {
        part: {
            other
            for path in paths if path.suffix == ".py"
            for each in imported(path) if each.startswith(prefix)
            if (other := each.removeprefix(prefix).split(".")[0]) in files.keys() - {part}
        }
        for part, paths in files.items()
    }  # fmt: skip
    TopologicalSorter(needs).prepare()  # raises CycleError, which names the circle


def test_values_of_a_device_are_on_the_cpu_before_they_are_float64() -> None:
    """MPS has no float64. In methods and dynamics, where tensors are on any device, double() follows cpu() or to()."""
    on_devices = (ROOT / "methods", ROOT / "dynamics")
    for path in sources(outside=[]):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "double" in text else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                before = node.func.value.func if isinstance(node.func.value, ast.Call) else None
                earlier = before.attr if isinstance(before, ast.Attribute) else ""
                assert (earlier, node.func.attr) != ("double", "cpu"), (path, node.lineno)
                if node.func.attr == "double" and {*on_devices} & {*path.parents}:
                    assert earlier in ("cpu", "to"), (path, node.lineno)


@pytest.mark.parametrize(
    ("everyday", "term", "elsewhere"),
    [
        ({"place", "places", "placement"}, "rank, index, position or path", ["networks/downsampling.py"]),
        ({"sign", "signs"}, "character or symbol", ["machine/noise.py", "uses/density.py", "methods"]),
        ({"stranger", "strangers"}, "outlier", []),
    ],
    ids=["place", "sign", "stranger"],
)
def test_names_are_terms_of_the_field(everyday: set[str], term: str, elsewhere: list[str]) -> None:
    """Left out are modules where such a word is a term, as of the sign ±1, or names a tensor of model files."""
    for path in sources(outside=elsewhere):
        text = path.read_text(encoding="utf-8")
        somewhere = re.search("|".join(everyday), text, re.IGNORECASE)
        for token in tokenize.generate_tokens(io.StringIO(text).readline) if somewhere else ():
            if token.type == tokenize.NAME:
                found = token.string.lower().strip("_") in everyday
                assert not found, f"{path}:{token.start[0]}: {token.string} is the {term}"


def test_sentences_are_written_in_terms_of_the_field() -> None:
    """In help texts, messages, docstrings, comments and the documents."""
    dialect = re.compile(
        r"strangers?\b|\bthe seam\b|(pictures?|images?) that (do not )?belong|(pictures|images) of the training"
    )
    pages = [*ROOT.parent.glob("*.md"), *(ROOT.parent / "docs").rglob("*.md"), *ROOT.parent.glob("benchmarks/*.md")]
    for path in [*sources(outside=[]), *PUBLIC, *pages]:
        text = " ".join(path.read_text(encoding="utf-8").split())
        assert not dialect.search(text), (path, dialect.search(text))


def test_nouns_after_a_number_are_put_into_the_plural_by_one_function() -> None:
    by_hand = re.compile(r"""else ["']e?s["']|["']e?s["'] if|removesuffix\(["']s["']\)""")
    for path in sources(outside=("errors.py",)):
        assert not by_hand.search(path.read_text(encoding="utf-8")), path


def test_the_core_does_not_know_the_command_line() -> None:
    for path in ROOT.rglob("*.py"):
        assert not {each.split(".")[0] for each in imported(path)} & {"typer", "rich", "vpfb_cli"}, path


def texts(path: Path) -> Iterator[str]:
    """Every string of a file but its docstring, with ... in the place of values that are inserted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inserted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in inserted for part in node.values} | {id(part) for part in ast.walk(tree.body[0])}
    for text in inserted:
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in text.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def test_the_core_names_options_only_in_whole_command_lines() -> None:
    """A setting is in backquotes; the command line spells it as an option (`vpfb_cli.output.in_options`)."""
    assert [
        (path, text)
        for path in ROOT.rglob("*.py")
        if "--" in path.read_text(encoding="utf-8")
        for text in texts(path)
        for before in re.findall(r"(.*?)--[a-z]", text, re.DOTALL)[:1]
        if not re.search(r"(vpfb|pip) [a-z]+( [^;,]*)?$", before)
    ] == []


def test_no_loose_modules_and_no_two_modules_of_one_name() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == LOOSE
    counted = Counter(path.stem for path in ROOT.rglob("*.py") if path.stem != "__init__")
    assert [name for name, count in counted.items() if count > 1] == []


def test_the_registry_describes_methods_correctly() -> None:
    from vpfb_core import methods, networks
    from vpfb_core.methods.base import Method
    from vpfb_core.methods.fields import Transports
    from vpfb_core.methods.step import DataShape

    for name, row in names.METHODS.items():
        method = methods.build(name, {})
        size = {"codes": 2} if row.network else {"widths": [4]}
        network = networks.build({"name": row.network or "unet", "channels": 1, "size": 8, **size})
        field = method.field(network, DataShape((1, 8, 8)))
        assert method.name == name
        assert set(row.gives) - {"energy", "free-energy"} == {
            *(["flow"] if isinstance(field, Transports) else []),
            *(["density"] if type(method).calibrate is not Method.calibrate else []),
            *(["code"] if type(method).encode is not Method.encode else []),
            *(["tilt"] if type(method).tilted is not Method.tilted else []),
        }  # fmt: skip
        assert len({"energy", "free-energy"} & set(row.gives)) == (field.levels is not None)
        assert row.sampling == method.SamplingOptions.names()


def test_the_names_that_people_type_are_those_of_the_modules() -> None:
    from vpfb_core import networks
    from vpfb_core.dynamics.tableaux import METHODS
    from vpfb_core.methods.path.homotopy import SCHEDULES
    from vpfb_core.methods.vpfb.objectives import OBJECTIVES
    from vpfb_core.training.presets import PRESETS
    from vpfb_core.uses.ood.scores import SCORES

    assert tuple(METHODS) == names.SOLVERS
    assert tuple(SCHEDULES) == names.SCHEDULES
    assert tuple(OBJECTIVES) == names.OBJECTIVES
    assert tuple(PRESETS) == names.PRESETS
    assert tuple(SCORES) == names.SCORES
    assert all(networks.find(name).name == name for name in names.NETWORKS)
