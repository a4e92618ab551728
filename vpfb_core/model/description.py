"""The description in a model file, checked before anything is built from it. It is JSON and contains no tensors.

The checksum of a file shows only that it was not damaged, not that its content makes sense. Every field is therefore
checked for its type and its range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpfb_core import methods
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine import container
from vpfb_core.machine.container import finite_number
from vpfb_core.methods import version_1

if TYPE_CHECKING:
    from vpfb_core.methods.fields import Calibration

LARGEST_SIDE = 2**16  # pixels
# The kinds of data. A description of statistics without a kind is that of images.
IMAGES, TABLE = "images", "table"


def setting_of(config: dict[str, Any], section: str, name: str) -> Any:
    """A setting in the configuration of a model file, with sections or, as in earlier versions, without; else None."""
    found = config.get(section)
    return (found if isinstance(found, dict) else config).get(name)


@dataclass(frozen=True)
class Description:
    """The description of a trained model in its file.

    Attributes:
        method: the name of the method.
        settings: the settings of the method.
        network: the description of the network for `networks.build`.
        statistics: the description of the statistics of the training data for `data.kinds.read_statistics`.
        shape: the shape of a datum.
        groups: the name and the classes of each condition group.
        parameters: the number of parameters.
        about: facts about the training. `data`, `step`, `seconds`, `device`, `seed`, `figures`, `config` and `versions`
            may be missing, but have the right types if they are present.
        calibration: the calibration for `Method.read_calibration`; None without a calibration.
        tilt: the tilt for `Tilt.from_dict`; None without a tilt.
    """

    method: str
    settings: dict[str, Any]
    network: dict[str, Any]
    statistics: dict[str, Any]
    shape: tuple[int, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    parameters: int
    about: dict[str, Any]
    calibration: dict[str, Any] | None
    tilt: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        """The kind of the data: "images" or "table"."""
        return str(self.statistics.get("kind", IMAGES))

    @property
    def data(self) -> str | None:
        """The name of the training data; None if it is not known."""
        name: str | None = self.about.get("data", {}).get("name")
        return name

    def read_calibration(self, path: Path) -> Calibration | None:
        """The calibration of the model; None if it has none. The weights are not needed.

        Args:
            path: the path of the file, for messages.
        Raises:
            CheckpointError: the calibration cannot be read, or the method or its settings are unknown.
        """
        if self.calibration is None:
            return None
        try:
            return methods.build(self.method, self.settings).read_calibration(self.calibration)
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"invalid model file {path}: its calibration cannot be read: {error}") from error

    @classmethod
    def parse(cls, document: dict[str, Any], path: Path) -> Description:
        """The description in the document of a model file, of any format version.

        Args:
            document: the JSON document of the file.
            path: the path of the file, for messages.
        Raises:
            CheckpointError: a field is missing, or has the wrong type or value. The message names the field.
        """
        try:
            return cls._parse(version_1.upgraded(document))
        except _WrongFieldError as wrong:
            raise CheckpointError(f"invalid model file {path}: field {wrong} has the wrong type or value") from None

    @classmethod
    def _parse(cls, document: dict[str, Any]) -> Description:
        method = _mapping(document, "method")
        about = _mapping(document, "about")
        _check_about(about)
        shape = tuple(_count(side, "shape") for side in _list(document, "shape"))
        if not shape or not all(0 < side <= LARGEST_SIDE for side in shape):
            raise _WrongFieldError("shape")
        if len(shape) == 3 and shape[0] not in (1, 3):
            raise _WrongFieldError("shape")
        groups = []
        for group in _list(document, "groups"):
            name = _text(_value(group, "name"), "groups")
            classes = tuple(_text(each, "groups") for each in _list(group, "classes"))
            groups.append((name, classes))
        network = _mapping(document, "network")
        _text(network.get("name"), "network")
        calibration, tilt = document.get("calibration"), document.get("tilt")
        return cls(
            method=_text(method.get("name"), "method"),
            settings=_mapping(method, "settings"),
            network=network,
            statistics=_statistics(document),
            shape=shape,
            groups=tuple(groups),
            parameters=_count(document.get("parameters"), "parameters"),
            about=about,
            calibration=None if calibration is None else _mapping(document, "calibration"),
            tilt=None if tilt is None else _tilt(document),
        )


def read(path: Path) -> Description:
    """The description in a model file. torch is not imported.

    Raises:
        CheckpointError: the file cannot be read (see `container.read_document`), or a field is wrong.
    """
    return Description.parse(container.read_document(path, "model"), path)


def read_header(path: Path) -> Description:
    """The description in the header of a model file, whose tensors are not read: for lists of models.

    Raises:
        CheckpointError: as of `container.read_header` and `Description.parse`.
    """
    return Description.parse(container.read_header(path, "model"), path)


class _WrongFieldError(Exception):
    """A field is missing, or has the wrong type or value."""

    def __init__(self, name: str) -> None:
        super().__init__(repr(name))


def _statistics(document: dict[str, Any]) -> dict[str, Any]:
    """The statistics of images, or of a table, of which every column has each figure."""
    statistics = _mapping(document, "statistics")
    try:
        numbers = [*_list(statistics, "mean"), statistics.get("std")]
        deviations = numbers[-1:]
        if statistics.get("kind") == TABLE:
            lists = [_list(statistics, name) for name in ("columns", "mean", "std", "step", "low", "high")]
            if len({len(each) for each in lists}) != 1 or not all(isinstance(each, str) for each in lists[0]):
                raise _WrongFieldError("statistics")
            numbers = [number for figures in lists[1:] for number in figures]
            deviations = lists[2]
        elif "kind" in statistics:
            raise _WrongFieldError("statistics")
        for number in numbers:
            _number(number, "statistics")
        if not all(number > 0 for number in deviations):
            raise _WrongFieldError("statistics")
    except _WrongFieldError:
        raise _WrongFieldError("statistics") from None
    return statistics


def _tilt(document: dict[str, Any]) -> dict[str, Any]:
    """The tilt, with a name and a target of each statistic. `Tilt.from_dict` checks the rest."""
    tilt = _mapping(document, "tilt")
    try:
        for each in _list(tilt, "statistics"):
            _text(_value(each, "name"), "tilt")
            _number(_value(each, "target"), "tilt")
        _number(tilt.get("nats"), "tilt")
        _count(tilt.get("rounds"), "tilt")
    except _WrongFieldError:
        raise _WrongFieldError("tilt") from None
    return tilt


def _check_about(about: dict[str, Any]) -> None:
    """Check the facts about the training that are present. A model that was built by hand may have none."""
    if "data" in about:
        data = _mapping(about, "data")
        _text(data.get("name"), "data")
        for name, check in (("images", _count), ("fingerprint", _text)):
            if data.get(name) is not None:
                check(data[name], "data")
    checks: dict[str, Callable[[Any, str], Any]] = {
        "step": _count, "seed": _count, "calibration_seed": _count, "match_seed": _count, "seconds": _number,
        "device": _text,
    }  # fmt: skip
    for name, require in checks.items():
        if name in about:
            require(about[name], name)
    for value in _mapping(about, "figures").values() if "figures" in about else ():
        if value is not None:
            _number(value, "figures")
    for value in _mapping(about, "versions").values() if "versions" in about else ():
        _text(value, "versions")
    if "config" in about:
        config = _mapping(about, "config")
        _number(setting_of(config, "data", "val_fraction"), "config")


def _value(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else None


def _mapping(holder: Any, name: str) -> dict[str, Any]:
    value = _value(holder, name)
    if not isinstance(value, dict):
        raise _WrongFieldError(name)
    return value


def _list(holder: Any, name: str) -> list[Any]:
    value = _value(holder, name)
    if not isinstance(value, list):
        raise _WrongFieldError(name)
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _WrongFieldError(name)
    return value


def _count(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise _WrongFieldError(name)
    return value


def _number(value: Any, name: str) -> float:
    try:
        return finite_number(value)
    except ValueError:
        raise _WrongFieldError(name) from None
