"""Folders that are read while training: the same pictures as in memory, decoded late, once, and with the same care."""

from __future__ import annotations

import os
import shutil
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from present import present

from vpfb_core import data
from vpfb_core.data import ImageSet, LoadOptions, StreamedSet, reader, streaming
from vpfb_core.data.streaming import first_by_hash
from vpfb_core.data.unreadable import tolerable
from vpfb_core.errors import DataError


@pytest.fixture
def decoded(monkeypatch):
    """Counts how often each file is decoded by a reader."""
    count: Counter[str] = Counter()
    honest = reader.read_picture

    def counting(path, size):
        count[path.name] += 1
        return honest(path, size)

    monkeypatch.setattr(reader, "read_picture", counting)
    return count


def stream(folder, **options) -> StreamedSet:
    found = data.find(str(folder), LoadOptions(stream=True, **options))
    assert isinstance(found, StreamedSet)
    return found


@pytest.mark.usefixtures("small_limits")
class TestPictures:
    def test_every_picture_is_that_of_the_set_in_memory(self, tmp_path, good):
        good(tmp_path / "b", 40, size=11)
        good(tmp_path / "a", 40, size=17)
        choices: list[dict[str, Any]] = [{"size": 8}, {"size": 8, "channels": 1}]
        for options in choices:
            in_memory, streamed = data.load(str(tmp_path), **options), stream(tmp_path, **options)
            assert torch.equal(streamed.in_memory().images, in_memory.images)
            assert streamed.files == in_memory.files
            assert streamed.shape == in_memory.shape
            assert len(streamed) == len(in_memory) == 80
            rows = torch.tensor([61, 3, 3])
            assert torch.equal(streamed.subset(rows).images, in_memory.images[rows])

    def test_classes_come_along(self, tmp_path, good):
        good(tmp_path / "b", 40)
        good(tmp_path / "a", 30)
        in_memory, streamed = data.load(str(tmp_path), conditional=True), stream(tmp_path, conditional=True)
        assert streamed.groups == in_memory.groups
        assert torch.equal(present(streamed.labels), present(in_memory.labels))
        rows = torch.tensor([69, 0])
        assert present(streamed.subset(rows).labels).tolist() == [[1], [0]]
        assert "2 classes from the sub-folder names: a, b" in streamed.notes

    def test_only_who_asks_gets_a_streamed_set_and_only_of_a_large_folder(self, tmp_path, good):
        good(tmp_path, 50)
        assert isinstance(data.find(str(tmp_path), LoadOptions(stream=True)), ImageSet)
        Image.new("RGB", (8, 8)).save(tmp_path / "one_more.png")
        assert isinstance(data.find(str(tmp_path), LoadOptions()), ImageSet)
        assert isinstance(data.load(str(tmp_path)), ImageSet)
        assert len(stream(tmp_path)) == 51

    def test_few_pictures_too_large_for_memory_are_streamed_as_well(self, tmp_path, good, monkeypatch):
        good(tmp_path, 10)
        monkeypatch.setattr(streaming, "MAX_BYTES", 10 * 3 * 16 * 16 - 1)
        assert stream(tmp_path, size=16).shape == (3, 16, 16)

    def test_size_and_colour_come_from_the_sample_alone(self, tmp_path, good, monkeypatch):
        names = good(tmp_path, 60, size=12, grey=True)
        sampled = {names[i] for i in first_by_hash(names, 20, "sample")}
        for name in set(names) - sampled:
            Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / name)
        looked_at = set()
        honest = streaming.read_picture

        def noted(path, size):
            looked_at.add(path.name)
            return honest(path, size)

        monkeypatch.setattr(streaming, "read_picture", noted)
        streamed = stream(tmp_path)
        assert streamed.shape == (1, 12, 12)
        assert looked_at == sampled
        assert streamed.sample.shape == (20, 1, 12, 12)
        assert "a sample of 20: 20 grey images of 12x12" in streamed.notes[0]
        late = next(i for i, name in enumerate(names) if name not in sampled)
        assert streamed.subset(torch.tensor([late])).images.unique().tolist() == [76], "luma of pure red"

    def test_the_sample_is_of_the_set(self, tmp_path, good):
        names = good(tmp_path, 60)
        streamed = stream(tmp_path)
        chosen = torch.tensor(first_by_hash(names, 20, "sample"))
        assert torch.equal(streamed.sample, streamed.subset(chosen).images)

    def test_a_limit_is_kept(self, tmp_path, good):
        good(tmp_path, 80)
        limited = data.find(str(tmp_path), LoadOptions(stream=True, limit=60))
        assert len(limited) == 60
        assert limited.files == data.load(str(tmp_path), limit=60).files


@pytest.mark.usefixtures("small_limits")
class TestMemory:
    def test_where_all_fit_each_file_is_decoded_once(self, tmp_path, good, decoded):
        names = good(tmp_path, 60)
        streamed = stream(tmp_path)
        for _ in range(3):
            streamed.in_memory()
        assert decoded == Counter(names)

    def test_where_they_do_not_fit_nothing_is_kept_and_the_pictures_are_the_same(
        self, tmp_path, good, decoded, monkeypatch
    ):
        names = good(tmp_path, 60)
        kept = stream(tmp_path).in_memory()
        decoded.clear()
        monkeypatch.setattr(reader, "KEPT_BYTES", 60 * 3 * 8 * 8 - 1)
        streamed = stream(tmp_path)
        assert "decoded again in every epoch" in streamed.notes[1]
        for _ in range(2):
            assert torch.equal(streamed.in_memory().images, kept.images)
        assert decoded == Counter(2 * names)

    def test_many_threads_read_the_same_pictures(self, tmp_path, good):
        good(tmp_path, 60)
        streamed, expected = stream(tmp_path), stream(tmp_path).in_memory().images.numpy()
        order = np.random.default_rng(0).integers(0, 60, 600).tolist()
        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(streamed.reader.take, order))
        assert all(np.array_equal(present(pixels), expected[i]) for i, pixels in zip(order, taken, strict=True))


@pytest.mark.usefixtures("small_limits")
class TestSplit:
    def test_a_bounded_number_is_held_out_and_the_sides_part_the_set(self, tmp_path, good, decoded):
        good(tmp_path, 100)
        streamed = stream(tmp_path)
        train, val = data.split(streamed, 0.5, seed=0)
        assert len(val) == 8
        assert torch.cat([train, val]).sort().values.tolist() == list(range(100))
        assert len(data.split(streamed, 0.05, seed=0)[1]) == 5
        assert len(data.split(streamed, 0.0, seed=0)[1]) == 0
        assert data.split(streamed, 0.5, seed=1)[1].tolist() != val.tolist()
        assert not decoded, "nothing is decoded to decide"

    def test_every_class_keeps_a_picture_to_train_on(self, tmp_path, good):
        for i in range(30):
            good(tmp_path / f"one{i}", 1)
        good(tmp_path / "many", 40)
        streamed = stream(tmp_path, conditional=True)
        train, val = data.split(streamed, 0.1, 0)
        assert len(val) == 7
        assert set(present(streamed.labels)[val, 0].tolist()) == {streamed.groups[0].classes.index("many")}
        assert set(present(streamed.labels)[train, 0].tolist()) == set(range(31))

    def test_the_held_out_files_stay_nearly_the_same_when_files_are_added(self, tmp_path, good):
        names = good(tmp_path, 100)
        before = {names[i] for i in data.split(stream(tmp_path), 0.5, seed=0)[1].tolist()}
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        more = stream(tmp_path)
        after = {more.files[i] for i in data.split(more, 0.5, seed=0)[1].tolist()}
        assert len(before & after) >= 7


@pytest.mark.usefixtures("small_limits")
class TestFingerprint:
    def test_it_sees_names_sizes_classes_and_shape_but_neither_place_nor_time(self, tmp_path, good):
        folder = tmp_path / "here"
        good(folder / "a", 40)
        good(folder / "b", 40)
        first = stream(folder).fingerprint()
        shutil.copytree(folder, tmp_path / "there")
        os.utime(tmp_path / "there" / "a" / "good000.png", (0, 0))
        assert stream(tmp_path / "there").fingerprint() == first

        prints = {first, stream(folder, conditional=True).fingerprint(), stream(folder, channels=1).fingerprint()}
        (folder / "a" / "good001.png").rename(folder / "a" / "renamed.png")
        prints.add(stream(folder).fingerprint())
        with (folder / "a" / "renamed.png").open("ab") as file:
            file.write(b"x")
        prints.add(stream(folder).fingerprint())
        assert len(prints) == 5


@pytest.mark.usefixtures("small_limits")
class TestDefects:
    def test_unreadable_files_are_named_with_the_reason_as_they_are_met(self, tmp_path, good):
        names = good(tmp_path, 97)
        sampled = names[first_by_hash(names, 20, "sample")[0]]
        late = next(name for i, name in enumerate(names) if i not in first_by_hash(names, 20, "sample"))
        (tmp_path / sampled).write_bytes(b"")
        (tmp_path / late).write_bytes(b"<html>")
        (tmp_path / "gone.png").symlink_to("nowhere.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            streamed = stream(tmp_path)
            expected = [("gone.png", "its link leads nowhere"), (sampled, "empty file")]
            assert list(streamed.skipped) == expected
            assert "skipped so far: 2 unreadable files: gone.png" in " ".join(streamed.notes)
            assert len(streamed.in_memory()) == 95
        assert set(streamed.skipped) == {*expected, (late, "not an image")}

    def test_a_folder_of_which_every_tenth_file_is_bad_is_refused_on_the_way(self, tmp_path, good, monkeypatch):
        monkeypatch.setattr("vpfb_core.data.unreadable._FEWEST", 40)
        names = good(tmp_path, 200)
        sampled = {names[i] for i in first_by_hash(names, 20, "sample")}
        for name in [name for name in names if name not in sampled][::4]:
            (tmp_path / name).write_bytes(b"")
        streamed = stream(tmp_path)
        with pytest.raises(
            DataError, match=r"of the \d+ image files read so far in .* cannot be read: good\d+.png \(em"
        ):
            streamed.in_memory()

    def test_a_sample_of_bad_files_is_refused_at_once(self, tmp_path, good, monkeypatch):
        monkeypatch.setattr(streaming, "SAMPLE", 200)
        for name in good(tmp_path, 200)[::3]:
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=r"67 of the 200 image files read so far"):
            stream(tmp_path)
        for path in tmp_path.iterdir():
            path.write_bytes(b"")
        with pytest.raises(DataError, match=r"200 of the 200 image files .*\(empty file\).*and 195 more"):
            stream(tmp_path)

    def test_links_that_lead_nowhere_count_as_well(self, tmp_path, good):
        good(tmp_path, 60)
        for i in range(9):
            (tmp_path / f"gone{i}.png").symlink_to("nowhere.png")
        with pytest.raises(DataError, match="only 60 of the 69 image files"):
            stream(tmp_path)

    @pytest.mark.parametrize("how", ["moved", "emptied"])
    def test_a_folder_that_vanishes_is_an_error_of_its_own(self, tmp_path, good, how):
        folder = tmp_path / "disk"
        good(folder, 60)
        streamed = stream(folder)
        folder.rename(tmp_path / "elsewhere")
        if how == "emptied":  # as a mount point is, once its disk is gone
            folder.mkdir()
        with pytest.raises(DataError, match="has disappeared") as caught:
            streamed.in_memory()
        assert "--resume" in present(caught.value.hint)
        assert not streamed.skipped


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.04, 0, 0), (0.05, 0, 5), (0.06, 100, 100)])
def test_four_bad_files_in_a_hundred_are_tolerated_in_whatever_order_and_six_are_not(share, fewest, most):
    draw, refused = np.random.default_rng(0), 0
    for _ in range(100):
        met = np.cumsum(draw.permutation(5_000) < round(share * 5_000))
        refused += not all(tolerable(int(met[tried - 1]), tried, 5_000) for tried in range(200, 5_001, 20))
    assert fewest <= refused <= most


def test_once_every_file_was_tried_the_rule_is_the_plain_one():
    assert tolerable(250, 5_000, 5_000)
    assert not tolerable(251, 5_000, 5_000)
