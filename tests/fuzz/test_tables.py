"""Tables, settings and idx files that nobody would write: values, or the one error that is theirs."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exploring import VALUES, bounded, budget, damaged, explore
from hypothesis import strategies as st
from miniatures import idx

from vpfb_core.config import TrainConfig, as_json, parse_setting, read_file, to_toml
from vpfb_core.data.idx import read_idx
from vpfb_core.data.labelling import read_labels
from vpfb_core.errors import ConfigError, DataError

SETTINGS = [*TrainConfig().to_dict()]

# --- attributes.csv ---------------------------------------------------------------------------------------------------

CELLS = st.sampled_from(
    ["0", "1", "-1", "", "1.0", "a.png", "b/c.png", "file", '"', '""', '"a', "\0", "\ufeff", "~x", "é"]
)
TABLES = (
    st.lists(st.lists(CELLS | st.text(max_size=6), max_size=4).map(",".join), max_size=6).map("\n".join).map(str.encode)
    | st.binary(max_size=80)
)  # fmt: skip


@budget(200, 30_000)
def test_any_table_is_labels_or_a_data_error_that_names_it(examples: int, tmp_path: Path) -> None:
    table = tmp_path / "attributes.csv"

    def check(content: bytes) -> None:
        table.write_bytes(content)
        try:
            labels = read_labels(tmp_path, ["a.png", "b/c.png"])
        except DataError as error:
            assert str(table) in error.message
            return
        assert labels.labels.shape == (2, len(labels.groups))
        assert set(labels.labels.flatten().tolist()) <= {-1, 0, 1}

    explore(TABLES, check, examples)


@pytest.mark.parametrize(
    "content",
    [b"file," + b",".join(b"a%d" % i for i in range(200_000)) + b"\na.png", b"file,a\n" + b'"' + b"x" * 10_000_000,
     b"file,a\n" + b"\n" * 3_000_000, b"f," * 1_000_000, b"file,a\na.png," + b"1" * 1_000_000],
    ids=["columns", "a quote", "lines", "nothing", "a value"],
)  # fmt: skip
def test_a_table_without_end_is_refused_in_little_time(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "attributes.csv").write_bytes(content)
    with bounded(mebibytes=512, seconds=10), pytest.raises(DataError) as caught:
        read_labels(tmp_path, ["a.png"])
    assert len(caught.value.message) < 1000


def test_a_table_that_is_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "attributes.csv").symlink_to("/dev/zero")
    with bounded(mebibytes=64, seconds=1), pytest.raises(DataError, match="not a file"):
        read_labels(tmp_path, ["a.png"])


# --- settings ---------------------------------------------------------------------------------------------------------


@budget(300, 50_000)
def test_any_values_are_settings_or_a_config_error(examples: int, tmp_path: Path) -> None:
    def check(values: dict[str, Any]) -> None:
        try:
            config = TrainConfig(**values)
        except ConfigError as error:
            assert len(error.message) < 500
            return
        (tmp_path / "c.toml").write_text(to_toml(config.to_dict()), "utf-8")
        given = {name: value for name, value in config.flat().items() if value is not None}
        assert as_json(read_file(tmp_path / "c.toml")) == as_json(given), "what is written is read back"

    numbers = (
        st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 16**6000, True, "90s", "9" * 5000 + "h"])
    )
    explore(st.dictionaries(st.sampled_from(SETTINGS), VALUES | numbers, max_size=3), check, examples)


_KEYS = st.sampled_from([*SETTINGS, "x", "", '"a b"', "a.b"])
_ASSIGNMENTS = st.builds("{} = {}".format, _KEYS, VALUES.map(lambda value: json.dumps(value, default=str)))
_ODDITIES = st.sampled_from([
    "[data]", "[[steps]]", "#", "lr = inf", "steps = 0x" + "f" * 6000, "steps = " + "9" * 5000, "lr = 1979-05-27",
    "widths = " + "[" * 3000, "a = {", "size = '''",
])  # fmt: skip
_TOML = st.lists(_ASSIGNMENTS | _ODDITIES, max_size=4).map("\n".join)


@budget(200, 30_000)
def test_any_file_is_settings_or_a_config_error(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            TrainConfig(**read_file(path))
        except ConfigError as error:
            assert len(error.message) < 500

    explore(_TOML.map(lambda text: text.encode("utf-8", "replace")) | st.binary(max_size=60), check, examples)


@budget(200, 30_000)
def test_any_assignment_is_a_setting_or_a_config_error(examples: int) -> None:
    def check(text: str) -> None:
        try:
            name, value = parse_setting(text)
            TrainConfig(**{name: value})
        except ConfigError:
            pass

    values = st.text(max_size=20) | st.sampled_from(
        ["[" * 5000, "9" * 5000, "0x" + "f" * 6000, "1\nseed=2", "{a=1}", "'"]
    )
    explore(st.text(max_size=10) | st.builds("{}={}".format, st.sampled_from(SETTINGS), values), check, examples)


def test_settings_without_end_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "c.toml").symlink_to("/dev/zero")
    with bounded(mebibytes=64, seconds=2), pytest.raises(ConfigError, match="larger than"):
        read_file(tmp_path / "c.toml")


# --- idx --------------------------------------------------------------------------------------------------------------


@budget(150, 20_000)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_damaged_idx_files(examples: int, ending: str, tmp_path: Path) -> None:
    whole = idx(np.arange(7 * 16, dtype=np.uint8).reshape(7, 4, 4))
    path = tmp_path / f"images{ending}"
    with bounded(mebibytes=64, seconds=20 + examples):
        for content in damaged(gzip.compress(whole) if ending else whole, examples, beginning=20):
            path.write_bytes(content)
            try:
                assert read_idx(tmp_path / "images", 3).ndim == 3
            except DataError as error:
                assert str(path) in error.message


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**30, 7, 1), (2**20, 64, 64)])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_idx_file_that_claims_to_be_enormous_is_refused_before_allocation(
    shape: tuple[int, ...], ending: str, tmp_path: Path
) -> None:
    content = bytes([0, 0, 8, 3]) + struct.pack(">3I", *shape) + bytes(2**20)
    (tmp_path / f"images{ending}").write_bytes(gzip.compress(content) if ending else content)
    with bounded(mebibytes=32, seconds=2), pytest.raises(DataError, match=r"more than|shorter"):
        read_idx(tmp_path / "images", 3)
