"""Tables of numbers: which cells, columns and rows of a file are learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vpfb_core as vpfb
from vpfb_core import data
from vpfb_core.data import InMemory, Table
from vpfb_core.data.table_statistics import TableStatistics, step_of
from vpfb_core.errors import ConfigError, DataError

ROWS = [[0.5 * i, i % 7 + 0.25, -i] for i in range(30)]


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(text: str | bytes, name: str = "table.csv") -> str:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def columns_of(table: InMemory) -> tuple[str, ...]:
    assert isinstance(table, Table)
    return table.columns


def lines(rows: Sequence[Sequence[Any]], separator: str = ",", end: str = "\n") -> str:
    return end.join(separator.join(map(str, row)) for row in rows) + end


NAMED = lines([["a", "b", "c"], *ROWS])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (NAMED, "table.csv"),
        ("\ufeff" + NAMED, "bom.csv"),
        (NAMED.replace("\n", "\r\n"), "windows.csv"),
        (NAMED.replace(",", ";"), "semicolons.csv"),
        (NAMED.replace(",", ";").replace(".", ","), "decimal commas.csv"),
        (NAMED.replace(",", "\t"), "tabs.tsv"),
        (NAMED.replace("a,b,c", '"a","b","c"'), "quoted.csv"),
        ("\n" + NAMED + "\n\n", "blank lines.csv"),
    ],
)
def test_the_usual_spellings_of_a_table_give_the_same_numbers(written: Any, text: str, name: str) -> None:
    table = data.load(written(text, name))
    assert columns_of(table) == ("a", "b", "c")
    np.testing.assert_array_equal(table.data.numpy(), np.array(ROWS))


def test_a_first_line_with_a_number_is_a_row(written: Any, tmp_path: Path) -> None:
    table = data.load(written(lines(ROWS)))
    assert (columns_of(table), len(table)) == (("x0", "x1", "x2"), 30)
    np.save(tmp_path / "rows.npy", np.array(ROWS))
    assert torch.equal(data.load(str(tmp_path / "rows.npy")).data, table.data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "has no rows, only a line of names"),
        (NAMED + "1,2\n", "line 32 has 2 cells, and the first line has 3"),
        (NAMED + "1,x,3\n", "line 32: b is 'x' and not a number"),
        ("a,a\n1,2\n", "two columns have the name 'a'"),
        ("a\n" + "5\n" * 30, "no column of numbers that differ"),
        ("a\n" + "text\n" * 30, "no column of numbers that differ"),
        (lines([["a", "b"], *([i if i % 5 else "", i] for i in range(30))]), "6 of 30 rows have a missing"),
        ("a,b\n1,2\n\xff\n".encode("latin-1"), "line 3 is not UTF-8"),
        (NAMED + '"1,2,3\n', "line 32 is not CSV"),
        ("a" * 200_000 + "\n1\n2\n", "line 1 is not CSV: field larger than"),
        (NAMED + "1,1_000,3\n", "line 32: b is '1_000' and not a number"),
    ],
)
def test_a_table_that_cannot_be_learned_is_refused_with_its_line_or_column(
    written: Any, text: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        data.load(written(text))
    assert message in caught.value.message


def test_columns_that_cannot_be_learned_are_left_out_with_a_note(written: Any) -> None:
    rows = [[i, *row, "text", 7, ""] for i, row in enumerate(ROWS)]
    table = data.load(written(lines([["", "a", "b", "c", "word", "same", "none"], *rows])))
    assert columns_of(table) == ("a", "b", "c")
    notes = "; ".join(table.notes)
    assert all(
        part in notes for part in ("text: word", "row numbers: the column without", "constant: same", "empty: none")
    )
    named = data.load(written(lines([["a", "b", "c", ""], *([*row, ""] for row in ROWS)])))
    assert "left out, empty: the column without a name" in named.notes


def test_two_columns_of_a_parquet_file_need_two_names(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = [pyarrow.array([0.5 * i for i in range(30)])] * 2
    for names in (["a", "b"], ["a", "a"]):
        parquet.write_table(pyarrow.Table.from_arrays(columns, names), tmp_path / f"{''.join(names)}.parquet")
    assert columns_of(data.load(str(tmp_path / "ab.parquet"))) == ("a", "b")
    with pytest.raises(DataError, match="two columns have the name 'a'"):
        data.load(str(tmp_path / "aa.parquet"))


def test_rows_with_a_missing_value_are_left_out_and_the_others_keep_their_numbers(written: Any) -> None:
    rows: list[list[Any]] = [[i, 2 * i + 0.5] for i in range(100)]
    rows[3][0], rows[50][1] = "NA", "inf"
    table = data.load(written(lines([["a", "b"], *rows])))
    assert len(table) == 98
    assert table.files is not None
    assert (table.files[2], table.files[3], table.files[97]) == ("3", "5", "100")
    assert any("2 of 100 rows" in note for note in table.notes)


def test_columns_are_found_by_name_in_any_order_and_without_names_by_position(written: Any) -> None:
    other = lines([["c", "a", "extra", "b"], *([row[2], row[0], 9, row[1]] for row in ROWS)])
    table = data.load(written(other), columns=("a", "b", "c"))
    np.testing.assert_array_equal(table.data.numpy(), np.array(ROWS))
    without = data.load(written(lines(ROWS), "without.csv"), columns=("a", "b", "c"))
    assert torch.equal(without.data, table.data)
    with pytest.raises(DataError, match="no column 'd'"):
        data.load(written(other), columns=("a", "d"))
    with pytest.raises(DataError, match="3 columns without names, and 2 are needed"):
        data.load(written(lines(ROWS), "without.csv"), columns=("a", "b"))


def test_a_value_that_no_network_can_compute_with_is_refused_with_its_line_and_column(written: Any) -> None:
    statistics = TableStatistics(("a", "b"), (0.0, 5.0), (1.0, 1e-3), (0.0, 0.0), (-1.0, 4.0), (1.0, 6.0))
    fitting = written("b,a\n5,1e14\n-1e11,0\n", "fitting.csv")
    assert len(data.load(fitting, **statistics.reading((2,)))) == 2
    for cell, value in (("1e308,0", "1e+308"), ("-1e13,0", "-1e+13")):
        with pytest.raises(DataError, match=r"beyond.csv', line 3: b is ") as caught:
            data.load(written(f"b,a\n5,0\n{cell}\n", "beyond.csv"), **statistics.reading((2,)))
        assert f"{value}, too far from the training data of the model to compute with" in caught.value.message
    with pytest.raises(ConfigError, match="too far from the training data"):
        statistics.require(torch.tensor([[0.0, 5.0], [1e308, 5.0]], dtype=torch.float64), (2,))


def test_classes_come_from_the_named_column(written: Any) -> None:
    rows: list[list[Any]] = [["a", "kind"], *([i, ("cat", "dog", "")[i % 3]] for i in range(30))]
    table = data.load(written(lines(rows)), label="kind", conditional=True)
    assert table.groups == (data.ConditionGroup("kind", ("cat", "dog")),)
    assert table.labels is not None
    assert table.labels[:3, 0].tolist() == [0, 1, -1]
    assert columns_of(table) == ("a",)
    with pytest.raises(DataError, match="does not say which column"):
        data.load(written(lines(rows)), conditional=True)
    with pytest.raises(DataError, match="no column 'nothing'"):
        data.load(written(lines(rows)), label="nothing")
    with pytest.raises(DataError, match="30 different classes"):
        data.load(written(lines([["a", "b"], *([i, i / 2] for i in range(30))])), label="b", conditional=True)


def test_options_of_images_are_refused_for_tables_and_those_of_tables_for_images(written: Any) -> None:
    with pytest.raises(ConfigError, match=r"holds rows, and size is for images"):
        data.load(written(NAMED), size=8)
    with pytest.raises(ConfigError, match=r"holds images, and label is for a table"):
        data.load("digits", label="a")


def test_statistics_are_those_of_each_column_and_standardising_is_undone_by_restoring() -> None:
    rows = torch.tensor([[1e9 + i, 0.01 * i**2] for i in range(200)], dtype=torch.float64)
    found = TableStatistics.of(rows, ("time", "x"))
    z = found.standardise(rows)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.restore(z), rows, atol=1e-4, rtol=0)
    assert found.log_volume((2,)) == pytest.approx(-float(rows.std(0, correction=0).log().sum()), abs=1e-6)
    assert TableStatistics.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("scale", [1e160, 1e-160])
def test_values_whose_variance_is_no_number_are_refused_with_their_column(scale: float) -> None:
    rows = torch.rand(30, 2, dtype=torch.float64) * torch.tensor([1.0, scale], dtype=torch.float64)
    with pytest.raises(DataError, match="too large or too small to compute with: b"):
        TableStatistics.of(rows, ("a", "b"))
    assert TableStatistics.of(rows.pow(0.9), ("a", "b")).std[1] > 0


def test_whole_numbers_with_few_values_are_spread_over_their_cells_and_rounded_back() -> None:
    rows = torch.tensor([[2 * (i % 5), i % 2, i + 0.5] for i in range(60)], dtype=torch.float64)
    found = TableStatistics.of(rows, ("even", "yes", "x"))
    assert found.step == (2.0, 1.0, 0.0)
    spread = found.dequantise(rows, seed=0)
    assert torch.equal(spread[:, 2], rows[:, 2])
    assert float((spread - rows).abs().amax(0)[0]) <= 1.0
    assert float((spread - rows)[:, 0].std()) == pytest.approx(2 / 12**0.5, rel=0.15)
    restored = found.restore(found.standardise(spread))
    assert torch.equal(restored[:, :2], rows[:, :2])
    torch.testing.assert_close(restored, rows, atol=1e-5, rtol=0)
    beyond = found.standardise(torch.tensor([[11.0, -3.0, 99.0]], dtype=torch.float64))
    assert found.restore(beyond)[0, :2].tolist() == [8.0, 0.0]
    assert torch.equal(found.dequantise(rows[7:], seed=0, first=7), spread[7:])


@pytest.mark.parametrize(
    ("values", "step"), [([0, 10, 30], 10.0), ([3, 4], 1.0), ([0, 0.5], 0.0), (list(range(200)), 0.0), ([7, 7], 0.0)]
)
def test_the_step_of_a_discrete_column_divides_all_its_differences(values: list[float], step: float) -> None:
    assert step_of(torch.tensor(values, dtype=torch.float64)) == step


def test_the_plane_sets_are_fixed_and_have_a_test_fifth() -> None:
    for name in ("moons", "rings", "pinwheel", "checkerboard", "eight-gaussians", "swiss-roll"):
        table = data.load(name)
        assert table.shape == (2,)
        assert torch.equal(table.data[:50], data.load(name, limit=20_000).data[:50])
        assert len(table.data.unique(dim=0)) == len(table)
    assert len(data.load("moons:test")) == 4_000
    board = data.load("checkerboard").data
    cells = (board + 2).floor().long()
    assert (cells.sum(1) % 2 == 0).all()


def test_arrays_in_memory_are_data_for_as_long_as_their_configuration() -> None:
    draws = np.random.default_rng(0)
    config = vpfb.TrainConfig(data=draws.normal(size=(40, 3)))
    source = config.replace(steps=3).data.source
    assert data.load(source).shape == (3,)
    same = vpfb.TrainConfig(data=torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3))))
    assert same.data.source == source
    images = vpfb.TrainConfig(data=torch.rand(5, 3, 8, 8))
    assert data.load(images.data.source).shape == (3, 8, 8)
    name = str(images.data.source)
    del images
    with pytest.raises(DataError, match="no data set"):
        data.load(name)
    with pytest.raises(DataError, match="neither rows"):
        vpfb.TrainConfig(data=np.zeros(5))
