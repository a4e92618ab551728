from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from present import present

from vpfb_core import data
from vpfb_core.data import stacking
from vpfb_core.data.folder import list_images
from vpfb_core.errors import DataError


@pytest.fixture
def defects(tmp_path, good, claiming, quadrants):
    """200 good pictures and one of each defect; the unreadable ones with their reasons."""
    good(tmp_path / "good", 200)
    quadrants.save(tmp_path / "whole.jpg", quality=95)
    jpeg = (tmp_path / "whole.jpg").read_bytes()
    unreadable = {
        "cut.jpg": (jpeg[: len(jpeg) // 2 + 100], "truncated"),
        "empty.png": (b"", "empty file"),
        "text.png": (b"<html>404</html>", "not an image"),
        "huge.png": (claiming(60000, 60000), "claims more than 100 million pixels"),
        "large.png": (claiming(12000, 9000), "claims 12000x9000 pixels, more than 100 million"),
        "sub/cut.gif": (b"GIF89a\x08\0\x08\0\x80\0\0", None),
    }
    (tmp_path / "sub").mkdir()
    for name, (content, _) in unreadable.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    unreadable["gone.png"] = (b"", "its link leads nowhere")
    unreadable["pipe.png"] = (b"", "not a regular file")

    quadrants.save(tmp_path / "UPPER.JPEG", quality=95)
    quadrants.save(tmp_path / "sub" / "deep.PNG")
    quadrants.quantize(8).save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("P", (16, 16))])
    quadrants.save(tmp_path / "misnamed.jpg", "PNG")
    Image.new("L", (9, 300)).save(tmp_path / "tall.pgm")
    quadrants.save(tmp_path / ".hidden.png")
    good(tmp_path / ".cache", 2)
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "LICENSE").write_text("hello")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "circle.png").symlink_to("circle.png")
    unreadable["circle.png"] = (b"", "Too many levels of symbolic links")
    return tmp_path, {name: reason for name, (_, reason) in unreadable.items()}


def test_a_folder_with_every_defect_loads_and_names_what_it_left_out(defects):
    folder, unreadable = defects
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = data.load(str(folder), size=16)
    skipped = dict(found.skipped)
    assert skipped.keys() == unreadable.keys()
    for name, reason in unreadable.items():
        assert skipped[name] == reason or reason is None, name
    expected = {"whole.jpg", "UPPER.JPEG", "sub/deep.PNG", "moving.gif", "misnamed.jpg", "tall.pgm"}
    assert set(present(found.files)) == expected | {f"good/good{i:03}.png" for i in range(200)}
    assert list(present(found.files)) == sorted(present(found.files))
    assert found.images.shape == (206, 3, 16, 16)
    assert found.flips
    notes = "\n".join(found.notes)
    assert "206 colour images, centre-cropped and resized to 16x16" in notes
    assert "201 of them are smaller than 16x16 and were enlarged" in notes
    assert "skipped 9 unreadable files: " in notes
    assert "ignored other files: 1 without ending, 1 .txt" in notes


def test_each_picture_stands_at_the_place_of_its_file(defects, quadrants):
    folder, _ = defects
    found = data.load(str(folder), size=16)
    wanted = torch.from_numpy(np.asarray(quadrants).transpose(2, 0, 1).copy())
    for name in ("sub/deep.PNG", "misnamed.jpg", "moving.gif"):
        assert torch.equal(found.images[present(found.files).index(name)], wanted), name


def test_the_result_does_not_depend_on_the_number_of_workers(defects):
    folder, _ = defects
    prints = {data.load(str(folder), workers=workers).fingerprint() for workers in (1, 3, 0)}
    assert len(prints) == 1


def test_the_size_is_chosen_from_the_files_that_can_be_read(defects):
    folder, _ = defects
    assert data.load(str(folder)).images.shape[-1] == 8


def test_more_than_five_percent_unreadable_files_are_an_error_that_names_them(tmp_path, good):
    good(tmp_path, 38)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    assert len(data.load(str(tmp_path))) == 38
    (tmp_path / "c.png").write_bytes(b"")
    for size in (None, 8):
        with pytest.raises(DataError, match=r"only 38 of the 41 image files in .*: a.png \(empty file\), b.png"):
            data.load(str(tmp_path), size=size)
    good(tmp_path, 57)
    assert len(data.load(str(tmp_path))) == 57


@pytest.mark.parametrize("count", [1, 4, 18])
def test_one_unreadable_file_never_stops(tmp_path, good, count):
    good(tmp_path, count)
    (tmp_path / "a.png").write_bytes(b"")
    found = data.load(str(tmp_path))
    assert len(found) == count
    assert "skipped 1 unreadable file: a.png (empty file)" in found.notes
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match=f"only {count} of the {count + 2} image files"):
        data.load(str(tmp_path))


def test_the_rule_is_about_the_folder_and_not_about_the_images_that_are_drawn_from_it(tmp_path, good):
    names = good(tmp_path, 42)
    drawn = data.LoadOptions(limit=30).rows(42).tolist()
    for i in drawn[:2]:  # 4.8 % of the folder, 6.7 % of the draw
        (tmp_path / names[i]).write_bytes(b"")
    assert len(data.load(str(tmp_path), limit=30)) == 28
    (tmp_path / names[drawn[2]]).write_bytes(b"")
    with pytest.raises(DataError, match="3 of the 30 image files read so far"):
        data.load(str(tmp_path), limit=30)


def test_a_draw_that_is_far_worse_than_the_rule_allows_is_refused(tmp_path, good):
    names = good(tmp_path, 400)
    for i in data.LoadOptions(limit=30).rows(400).tolist()[:20]:  # 5 % of the folder, but nearly all that is drawn
        (tmp_path / names[i]).write_bytes(b"")
    with pytest.raises(DataError, match="20 of the 30 image files read so far"):
        data.load(str(tmp_path), limit=30)


def test_a_folder_of_unreadable_files_is_an_error(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes(b"junk")
    for size in (None, 8):
        with pytest.raises(DataError, match=r"none of the 9 image files .*0.png \(not an image\).*and 4 more"):
            data.load(str(tmp_path), size=size)


def test_an_unreadable_image_is_named_by_its_path(tmp_path):
    (tmp_path / "a.png").write_bytes(b"junk")
    for source in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(DataError, match=rf"^cannot read '{tmp_path / 'a.png'}': not an image$"):
            data.load(str(source))


def test_a_folder_without_images_says_what_it_holds_instead(tmp_path):
    with pytest.raises(DataError, match="no images in") as caught:
        data.load(str(tmp_path))
    assert ".png" in present(caught.value.hint)
    (tmp_path / "a.heic").write_bytes(b"")
    (tmp_path / "b.HEIC").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 \.heic"):
        data.load(str(tmp_path))


def test_a_folder_that_may_not_be_listed_is_an_error_and_a_sub_folder_is_skipped(tmp_path, good, monkeypatch):
    good(tmp_path, 30)
    good(tmp_path / "private", 3)
    listing = os.scandir

    def locked(path):
        if str(path).endswith(blocked):
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(os, "scandir", locked)
    blocked = "private"
    assert data.load(str(tmp_path)).skipped == (("private/", "cannot be listed: Permission denied"),)
    blocked = tmp_path.name
    with pytest.raises(DataError, match="cannot be listed: Permission denied"):
        data.load(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_skipped(tmp_path, good):
    good(tmp_path, 30)
    (tmp_path / "good007.png").chmod(0)
    assert data.load(str(tmp_path)).skipped == (("good007.png", "no permission to read it"),)


def test_links_are_followed_once_and_real_folders_keep_their_names(tmp_path, good):
    good(tmp_path / "b", 2)
    good(tmp_path / "elsewhere" / "c", 2)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").symlink_to(tmp_path / "root" / "z")
    (tmp_path / "root" / "outside").symlink_to(tmp_path / "elsewhere")
    good(tmp_path / "root" / "z", 2)
    files = list_images(tmp_path / "root").files
    assert files == ["outside/c/good000.png", "outside/c/good001.png", "z/good000.png", "z/good001.png"]


def test_grey_files_give_grey_and_one_colour_file_colour(tmp_path, good):
    good(tmp_path, 20, grey=True)
    assert data.load(str(tmp_path)).images.shape == (20, 1, 8, 8)
    Image.new("RGB", (8, 8), (90, 90, 90)).save(tmp_path / "grey_in_rgb.png")
    assert data.load(str(tmp_path), size=8).images.shape == (21, 1, 8, 8)
    Image.new("RGB", (8, 8), (90, 140, 90)).save(tmp_path / "green.png")
    assert data.load(str(tmp_path)).images.shape == (22, 3, 8, 8)
    assert data.load(str(tmp_path), channels=1).images.shape == (22, 1, 8, 8)


def test_up_to_one_percent_of_colour_pictures_leave_a_set_grey_with_a_note(tmp_path, good):
    good(tmp_path, 120, grey=True)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    found = data.load(str(tmp_path))
    assert found.images.shape == (121, 1, 8, 8)
    assert "1 of them are in colour and read as grey" in " ".join(found.notes)
    red = found.images[present(found.files).index("red.png")]
    assert red.unique().tolist() == [76]  # 0.299 · 255
    assert data.load(str(tmp_path), channels=3).images.shape == (121, 3, 8, 8)


def test_the_noise_of_a_grey_jpeg_is_not_colour(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(noise).convert("RGB").save(tmp_path / "scan.jpg", quality=50)
    assert data.load(str(tmp_path)).images.shape == (1, 1, 32, 32)


def test_pictures_that_would_not_fit_into_memory_are_refused_before_they_are_read(tmp_path, good, monkeypatch):
    good(tmp_path, 20)
    monkeypatch.setattr(stacking, "MAX_BYTES", 20 * 3 * 16 * 16 - 1)
    with pytest.raises(DataError, match=r"20 images of 16x16 would take") as caught:
        data.load(str(tmp_path), size=16)
    assert "`size`" in present(caught.value.hint)


def test_names_that_are_no_text_stay_as_they_are_and_are_shown_as_escapes(tmp_path, good):
    good(tmp_path, 30)
    folder = os.fsencode(tmp_path)
    try:
        os.rename(folder + b"/good000.png", folder + b"/caf\xe9.png")  # noqa: PTH104
    except OSError:
        pytest.skip("this file system allows only UTF-8 names")
    (tmp_path / "line\nbreak.png").write_bytes(b"")
    found = data.load(str(tmp_path))
    assert "caf\udce9.png" in present(found.files)
    assert found.skipped[0][0] == "line\nbreak.png"
    "".join(found.notes).encode()
    assert "line\\nbreak.png" in "".join(found.notes)
