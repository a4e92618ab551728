"""The classes of samples in an archive, and archives that other programs write."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Vpfb

from vpfb_core import data


def test_samples_of_classes_keep_their_labels_in_an_archive(vpfb: Vpfb) -> None:
    assert (
        vpfb("sample", "-m", "digits", "-n", "5", "--class", "3", "--class", "1", "--nfe", "2", "-o", "s.npz").code == 0
    )
    drawn = data.load("s.npz", conditional=True)
    assert drawn.labels is not None
    names = [drawn.groups[0].classes[i] for i in drawn.labels[:, 0].tolist()]
    assert names == ["3", "1", "3", "1", "3"]
    assert drawn.groups[0].classes == tuple("0123456789")


def test_samples_of_no_class_have_no_labels(vpfb: Vpfb) -> None:
    assert vpfb("sample", "-m", "digits", "-n", "2", "--nfe", "2", "-o", "s.npz").code == 0
    assert np.load("s.npz").files == ["images"]


@pytest.mark.parametrize("name", ["arr_0", "images", "x_train"])
def test_a_single_array_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    np.save(tmp_path / f"{name}.npy", images)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:  # as np.savez writes it
        archive.write(tmp_path / f"{name}.npy", f"{name}.npy")
    assert np.array_equal(data.load(str(tmp_path / "a.npz")).images[:, 0].numpy(), images)
