"""Fit on a folder of pictures (one sub-folder per class), then predict and find similar pictures.

python examples/flowers.py photos --time 3m
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import gristmill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--time", default="3m")
    options = parser.parse_args()

    result = gristmill.fit(options.photos, time=options.time, out="flowers.grist")
    print(result.summary())

    model = gristmill.load(result.bundle)
    paths = sorted(str(p) for p in options.photos.rglob("*.jpg"))[:200]
    for prediction in model.predict(paths[:5]):
        sure = "" if not prediction.abstain else "  (better ask a person)"
        print(f"{prediction.input}: {prediction.label}{sure}")

    # Features are what the network has made of a picture: alike pictures have alike features.
    vectors = model.features(paths)
    vectors = vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9)
    nearest = int(np.argsort(-(vectors @ vectors[0]))[1])
    print(f"most like {paths[0]}: {paths[nearest]}")


if __name__ == "__main__":
    main()
