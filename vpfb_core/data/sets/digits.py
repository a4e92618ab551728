"""`digits`: 1,797 handwritten digits of 8×8 pixels, ten classes; comes with the package and needs no network.

The test set of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (UCI Machine Learning
Repository, doi 10.24432/C50P49), CC BY 4.0, as scikit-learn distributes it. Its 17 grey levels were spread over
0 … 255 (`benchmarks/make_digits_data.py`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vpfb_core.data.arrays import load_arrays
from vpfb_core.data.in_memory import InMemory
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.data.named_set import NamedSet

_FILE = Path(__file__).parents[2] / "assets" / "digits_images.npz"


def load_digits(options: LoadOptions) -> InMemory:
    """The digits: uint8 (1797, 1, 8, 8) unless a size or channels are given; one group of ten classes.

    Raises:
        DataError: the package's own file is missing or damaged.
    """
    return replace(load_arrays(_FILE, options), flips=False)


SETS = (
    NamedSet("digits", "handwritten digits, in the package", load_digits, 1_797, (1, 8, 8), tuple("0123456789")),
)  # fmt: skip
