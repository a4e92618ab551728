"""Sets of outliers of each kind, for pictures in grey of 28×28 pixels and for faces in colour of 32×32 pixels.

Each set has as many pictures as it is asked for. Altered copies are made from members, and all sets depend only on
their arguments. All pictures are uint8, (N, C, H, W).
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from drawn_letters import DIGITS, LETTERS, drawn
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vpfb_core.uses.ood import altered

Change = Callable[[Tensor], Tensor]


def resized(images: Tensor, size: int) -> Tensor:
    """Images of `size`×`size` pixels."""
    small = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def upside_down(images: Tensor) -> Tensor:
    return images.flip(2)


def dark(images: Tensor) -> Tensor:
    return (images * 0.3).round().to(torch.uint8)


def inverted(images: Tensor) -> Tensor:
    return 255 - images


def compressed(images: Tensor) -> Tensor:
    """Images after JPEG with quality 25."""
    found = []
    for image in images:
        picture, file = Image.fromarray(image.permute(1, 2, 0).numpy().squeeze()), io.BytesIO()
        picture.save(file, "JPEG", quality=25)
        values = np.asarray(Image.open(file))
        found.append(torch.from_numpy(values.reshape(*values.shape[:2], -1).copy()).permute(2, 0, 1))
    return torch.stack(found)


def shuffled_pixels(images: Tensor) -> Tensor:
    """Images, the pixels of each in an order of its own."""
    order = torch.rand(len(images), images[0, 0].numel(), generator=_generator(1)).argsort(1)
    return images.flatten(2).gather(2, order[:, None].expand(-1, images.shape[1], -1)).view_as(images)


def shuffled_parts(images: Tensor) -> Tensor:
    """Images, the sixteen parts of each in an order of its own."""
    count, channels, side, _ = images.shape
    part = side // 4
    parts = images.view(count, channels, 4, part, 4, part).transpose(3, 4).reshape(count, channels, 16, part, part)
    order = torch.rand(count, 16, generator=_generator(2)).argsort(1)
    parts = parts.gather(2, order[:, None, :, None, None].expand_as(parts))
    return parts.view(count, channels, 4, 4, part, part).transpose(3, 4).reshape(images.shape)


def exchanged_halves(images: Tensor) -> Tensor:
    """Images with their upper and lower halves exchanged."""
    return images.roll(images.shape[2] // 2, 2)


def averaged(images: Tensor) -> Tensor:
    """The mean of each image and its neighbour in the set."""
    return ((images.float() + images.roll(1, 0)) / 2).round().to(torch.uint8)


def shifted(images: Tensor) -> Tensor:
    """Images that are shifted by four pixels, with the shades of their first row and column behind them."""
    return F.pad(images.float(), (4, 0, 4, 0), mode="replicate")[:, :, :-4, :-4].to(torch.uint8)


def thick(images: Tensor) -> Tensor:
    """Images with the brightest shade of each 3×3 pixels."""
    return F.max_pool2d(images.float(), 3, 1, 1).to(torch.uint8)


def grey(images: Tensor) -> Tensor:
    return images.float().mean(1, keepdim=True).round().to(torch.uint8).expand_as(images).clone()


def other_channels(images: Tensor) -> Tensor:
    """Images with red and blue exchanged."""
    return images.flip(1)


def coloured(images: Tensor, size: int) -> Tensor:
    """Images (N, 1, H, W) in a random colour on a background of another one, (N, 3, size, size)."""
    front, back = torch.rand(2, len(images), 3, 1, 1, generator=_generator(3))
    shade = resized(images, size).float() / 255
    return ((shade * front + (1 - shade) * back) * 255).round().to(torch.uint8)


def constant(like: Tensor) -> Tensor:
    """Images of one colour each."""
    return (torch.rand(*like.shape[:2], 1, 1, generator=_generator(4)) * 255).to(torch.uint8).expand_as(like).clone()


def noise(like: Tensor) -> Tensor:
    """Images of independent uniform pixels."""
    return (torch.rand(like.shape, generator=_generator(5)) * 255).to(torch.uint8)


ALTERED: dict[str, Change] = {
    "turned": altered.turned,
    "upside down": upside_down,
    "mirrored": altered.mirrored,
    "with a hole": altered.with_a_hole,
    "blended": altered.blended,
    "averaged in pairs": averaged,
    "halves exchanged": exchanged_halves,
    "parts shuffled": shuffled_parts,
    "pixels shuffled": shuffled_pixels,
    "blurred": altered.blurred,
    "noised": altered.noised,
    "JPEG": compressed,
    "dark": dark,
    "inverted": inverted,
    "constant": constant,
    "noise": noise,
}


def of_faces(faces: Tensor, others: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sets of outliers for faces of 32×32 pixels.

    Args:
        faces: members of 64×64 pixels.
        others: other images in colour of any size by name, and images in grey, which are coloured.
    """
    members = resized(faces, 32)
    corners = torch.randint(0, 64 - 36 + 1, (len(faces), 2), generator=_generator(6)).tolist()
    crops = [face[:, top : top + 36, left : left + 36] for face, (top, left) in zip(faces, corners, strict=True)]
    found = {name: change(members) for name, change in ALTERED.items()}
    found |= {"grey": grey(members), "red and blue exchanged": other_channels(members)}
    found["other crop"] = resized(torch.stack(crops), 32)
    for name, images in others.items():
        found[name] = coloured(images, 32) if images.shape[1] == 1 else resized(images, 32)
    return found


def of_greys(members: Tensor, others: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sets of outliers for images in grey of 28×28 pixels.

    Args:
        members: members.
        others: other images of any size by name. Those in colour become grey.
    """
    found = {name: change(members) for name, change in ALTERED.items()}
    found |= {"shifted": shifted(members), "thick": thick(members)}
    for name, images in others.items():
        found[name] = resized(images.float().mean(1, keepdim=True), members.shape[2])
    found["drawn letters"] = drawn(LETTERS, len(members), seed=1)
    return found


def drawn_digits(count: int) -> Tensor:
    """Digits that are drawn as the letters are."""
    return drawn(DIGITS, count, seed=0)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
