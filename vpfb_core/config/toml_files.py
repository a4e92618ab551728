"""Settings as text: TOML files, key=value pairs and durations."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import date, time
from pathlib import Path
from typing import Any

from vpfb_core.config.sections import WORDS
from vpfb_core.config.setting_paths import located
from vpfb_core.errors import ConfigError
from vpfb_core.machine.file_names import expanded

LARGEST_FILE = 2**20  # bytes
_NUMBER = r"\d+(?:\.\d+)?"


def parse_setting(text: str) -> tuple[str, Any]:
    """The key and the value of "key=value".

    The value of a setting that is a word is the text, without the quotes of TOML if it has any. Another value is read
    as TOML, or taken as a string if it is not TOML.

    Raises:
        ConfigError: the text has no key or no "=".
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise ConfigError(f"{text!r} is not of the form key=value", hint="for example `lr=5e-4`")
    try:
        found = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):  # not TOML, too many digits, or nested too deeply
        return name, value
    read = found["value"]
    is_text = name in WORDS or isinstance(read, date | time) or len(found) > 1  # a date is no value of any setting
    return name, value if is_text and not isinstance(read, str) else read


def read_file(path: Path) -> dict[str, Any]:
    """The settings of a TOML file by their paths.

    The file may have sections, or all settings at the top level as in files of version 1.

    Raises:
        ConfigError: the file is missing, unreadable or not TOML, or it has an unknown setting.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ConfigError(f"{path} is larger than {LARGEST_FILE // 1024} KiB: not a configuration")
        settings = tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not a configuration: it is nested too deeply") from error
    except ValueError as error:  # not UTF-8, not TOML, or an integer of thousands of digits
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    try:
        return located(settings)
    except ConfigError as error:
        raise ConfigError(f"{error.message} in {path}", hint=error.hint) from error


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, or sections of settings, as they look after a round trip through JSON: tuples become lists."""
    return {
        name: as_json(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for name, value in settings.items()
    }


def to_toml(sections: Mapping[str, Any]) -> str:
    """Settings as the text of a TOML file, with sections as tables. Settings that are None are left out."""
    lines = []
    for name, value in sections.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]", *_lines(value)]
        else:
            lines += _lines({name: value})
    return "\n".join(lines).lstrip("\n") + "\n"


def _lines(settings: Mapping[str, Any]) -> list[str]:
    # A JSON value is also a TOML value, except for the one control character that JSON does not escape.
    written = {
        name: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        for name, value in settings.items()
        if value is not None
    }
    return [f"{name} = {value}" for name, value in written.items()]


def parse_path(value: Any) -> Any:
    """A path, or a name that may be one, in which a leading ~ is the home folder.

    A value that is neither a string nor a path is returned unchanged.

    Raises:
        ConfigError: the string is empty, as that of a variable that was not set.
    """
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if value == "":
        raise ConfigError("a path is empty", hint="give a path, or leave the setting out")
    return expanded(value) if isinstance(value, str) else value


def parse_duration(value: Any) -> Any:
    """The seconds of a duration such as "90", "90s", "10m", "1.5h", "1h30m" or "1h 30m".

    A value that is not a string is returned unchanged.

    Raises:
        ConfigError: the string is not a duration.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    parts = re.fullmatch(rf"(?:({_NUMBER})h)? ?(?:({_NUMBER})m(?:in)?)? ?(?:({_NUMBER})s)?", text)
    if not text or parts is None:
        raise ConfigError(f"{value!r} is not a duration", hint="for example 90s, 10m, 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + seconds
