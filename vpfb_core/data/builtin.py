"""Data sets that come with the package and need no network.

`digits`: 1,797 handwritten digits of 8×8 pixels, ten classes. The test set of "Optical Recognition of Handwritten
Digits" by E. Alpaydin and C. Kaynak (UCI Machine Learning Repository, doi 10.24432/C50P49), CC BY 4.0, as scikit-learn
distributes it; the 17 levels of grey were spread over 0 … 255 (`benchmarks/make_digits_data.py`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vpfb_core.data.arrays import load_arrays
from vpfb_core.data.images import ImageSet
from vpfb_core.data.load_options import LoadOptions

DIGITS = Path(__file__).parent.parent / "assets" / "digits_images.npz"


def load_digits(options: LoadOptions) -> ImageSet:
    """The digits: uint8 (1797, 1, 8, 8) unless a size or channels were asked for; one group of ten classes.

    Raises:
        DataError: the package's own file is missing or damaged.
    """
    return replace(load_arrays(DIGITS, options), flips=False)
