from __future__ import annotations

import pytest
import torch

from vpfb_core.data.batches import BatchesInMemory, Order


def numbered(count: int) -> torch.Tensor:
    """Images that carry their index in the left pixel and 255 in the right one."""
    images = torch.full((count, 1, 2, 2), 255, dtype=torch.uint8)
    images[:, 0, :, 0] = torch.arange(count, dtype=torch.uint8)[:, None]
    return images


def indices(batches: BatchesInMemory, steps: range) -> list[int]:
    """Which images the steps saw, whichever way round: the smaller of the two pixels."""
    return [int(image.min()) for step in steps for image in batches[step][0]]


@pytest.mark.parametrize("batch_size", [3, 10, 25])
def test_every_epoch_sees_every_image_once(batch_size: int) -> None:
    seen = indices(BatchesInMemory(numbered(10), None, Order(10, batch_size, seed=1, flip=False)), range(30))
    for epoch in range(len(seen) // 10):
        assert sorted(seen[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert seen[:10] != seen[10:20], "each epoch has its own order"


def test_order_and_flips_do_not_depend_on_the_batch_size_nor_on_where_one_begins() -> None:
    small, large = (BatchesInMemory(numbered(10), None, Order(10, size, seed=1, flip=True)) for size in (5, 10))
    assert torch.equal(torch.cat([small[4][0], small[5][0]]), large[2][0])


def test_about_half_of_the_images_are_mirrored_and_others_each_epoch() -> None:
    batches = BatchesInMemory(numbered(100), None, Order(100, 100, seed=1, flip=True))
    mirrored = [frozenset(int(i.min()) for i in batches[epoch][0] if i[0, 0, 0] == 255) for epoch in range(3)]
    assert all(30 < len(each) < 70 for each in mirrored)
    assert len(set(mirrored)) == 3


def test_labels_stay_with_their_images() -> None:
    images, labels, keys = BatchesInMemory(numbered(10), torch.arange(10)[:, None], Order(10, 4, seed=0, flip=True))[3]
    assert labels is not None
    assert images.amin((1, 2, 3)).tolist() == labels[:, 0].tolist()
    assert keys is not None
    assert (keys % 10).tolist() == labels[:, 0].tolist()
