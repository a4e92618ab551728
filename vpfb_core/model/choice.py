"""The choice of a model for a data set, where nobody has named one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vpfb_core import data, methods
from vpfb_core.data.catalogue import same_set
from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import ConfigError, VPFBError
from vpfb_core.methods.step import DataShape
from vpfb_core.model import description, model_file
from vpfb_core.model.description import Description
from vpfb_core.model.lock import is_locked
from vpfb_core.model.runs import Run, builtin_models, list_runs, model_name

PREVIEW = 64  # the largest size of images that are ranked without a model


@dataclass(frozen=True)
class Needs:
    """What a use needs of a model.

    Attributes:
        capabilities: those of the method, as in `names.MethodName`.
        parts: the attributes of the model that calibration sets, "reference" or "calibration".
    """

    capabilities: frozenset[str] = frozenset()
    parts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Choice:
    """A model that was chosen.

    Attributes:
        model: the model file; None if no model has what is needed.
        passed_over: the model that comes before it, but lacks something; None if there is none.
        note: a sentence that names that model and what it lacks.
    """

    model: Path | None
    passed_over: Path | None = None
    note: str | None = None


def choose(source: str, needs: Needs, is_like: Callable[[Description], bool] = lambda _header: True) -> Choice:
    """The first model that has what is needed, in the one order of preference.

    First come the runs that were trained on the source, the newest first, then the built-in model of that data, and
    then the other runs that are like the source, the newest first.

    Args:
        source: the name of a data set, a folder or a file.
        needs: what the model must have. A model whose unconditional field was not trained is passed over as well.
        is_like: whether a model of other data can be used (`of_the_kind_of`).
    Raises:
        DataError: the folder of the runs cannot be read. Errors of `is_like` are passed on.
    """
    first = Choice(None)
    for path, header in _in_order(source, is_like):
        found = _choice_of(path, header, needs)
        if found.model is not None:
            return Choice(path, first.passed_over, first.note)
        if first.passed_over is None:
            first = found
    return first


def choice_of(path: Path, needs: Needs) -> Choice:
    """The choice where there is one model only, which is passed over if it lacks something.

    Errors are those of `description.read_header`.
    """
    return _choice_of(path, description.read_header(path), needs)


def of_the_kind_of(source: str, **options: Any) -> Callable[[Description], bool]:
    """Whether a model is of data like a source: of images with as many channels, or of a table.

    The source is read when the function is first called.

    Args:
        source: the name of a data set, a folder or a file.
        options: root, download and workers, as in `data.load`.
    Returns:
        The function, which raises DataError if the source cannot be read.
    """

    @cache
    def shape() -> tuple[int, ...]:
        return tuple(data.find(source, data.LoadOptions(stream=True, max_size=PREVIEW, **options)).shape)

    def is_like(header: Description) -> bool:
        if len(shape()) != 3:
            return header.kind == description.TABLE
        return header.kind == description.IMAGES and header.shape[0] == shape()[0]

    return is_like


def _in_order(source: str, is_like: Callable[[Description], bool]) -> Iterator[tuple[Path, Description]]:
    """The models that can be read with their descriptions, in the order of `choose`."""
    others: list[tuple[Path, Description]] = []
    for path in [*(run.model for run in list_runs()), *builtin_models().values()]:
        header = _readable(path)
        if header is not None and header.data is not None and same_set(header.data, source):
            yield path, header
        elif header is not None and Run.of(path) is not None:
            others.append((path, header))
    yield from ((path, header) for path, header in others if is_like(header))


def _readable(path: Path) -> Description | None:
    """The description of a model; None if there is no model yet, or its header cannot be read."""
    try:
        return description.read_header(path)
    except VPFBError:
        return None


def _choice_of(path: Path, header: Description, needs: Needs) -> Choice:
    lacking = _lacking(path, header, needs)
    if lacking is None:
        return Choice(path)
    run = Run.of(path)
    return Choice(None, path, f"{model_name(path) if run is None else run.path} {lacking}; it is not used")


def _lacking(path: Path, header: Description, needs: Needs) -> str | None:
    """What a model lacks, as the predicate of a sentence about it; None if it lacks nothing."""
    for capability in sorted(needs.capabilities):
        if not methods.gives(header.method, capability):
            what = {"free-energy": "energy", "energy": "energy in closed form"}.get(capability, capability)
            return f"was trained with the method {header.method}, which has no {what}"
    shape = DataShape.of(header.shape, [ConditionGroup(*group) for group in header.groups])
    try:
        if not methods.build(header.method, header.settings).trains_null(shape):
            return "was trained only with classes (condition_dropout = 0)"
    except ConfigError:
        return "cannot be built by this version"
    has = {"reference": model_file.has_reference(path), "calibration": header.calibration is not None}
    if missing := sorted(part for part in needs.parts if not has[part]):
        run = Run.of(path)
        training = "is still training and " if run is not None and is_locked(run) else ""
        return f"{training}has no {' and no '.join(missing)} yet"
    return None
