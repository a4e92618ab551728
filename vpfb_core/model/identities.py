"""Numbers by which images and rows are recognised."""

from __future__ import annotations

import torch
from torch import Tensor

from vpfb_core.data.image_statistics import in_unit_range


def identities_of(values: Tensor) -> Tensor:
    """A number for each of N images or rows that equal ones share and others do not, int64 (N,).

    It is a random linear form of the bits of the values modulo 2⁶⁴.
    """
    bits = in_unit_range(values).flatten(1).contiguous().cpu().view(torch.int32).long()
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=generator)
    return torch.cat([(part * factors).sum(1) for part in bits.split(64)])
