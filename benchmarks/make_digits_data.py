"""Write vpfb_core/assets/digits_images.npz from scikit-learn's copy of the UCI digits (CC BY 4.0).

    python benchmarks/make_digits_data.py

The originals count 0 to 16 inked dots in each 4×4 block; 16 becomes 255. The package contains the result, so that it
needs no scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).parent.parent / "vpfb_core" / "assets" / "digits_images.npz"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, images=images, labels=digits.target.astype(np.uint8))
    print(f"{TARGET}: {images.shape} {images.dtype}, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
