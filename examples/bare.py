"""Use a bundle of pictures without Gristmill: a zip, JSON, ONNX. Needs onnxruntime, numpy and Pillow.

python examples/bare.py flowers.grist new.jpg

This shows that nobody is locked in. It trusts the file; `gristmill.load` checks it first.
"""

from __future__ import annotations

import argparse
import json
import zipfile

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps


def square(path: str, longest: int, channels: int, size: int) -> np.ndarray:
    """The picture as uint8 (1, size, size, channels), squashed."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("L" if channels == 1 else "RGB")
    scale = min(1.0, longest / max(picture.size))
    box = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.resize(box, Image.Resampling.BILINEAR).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small, np.uint8).reshape(1, size, size, channels)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("picture")
    options = parser.parse_args()
    with zipfile.ZipFile(options.bundle) as bundle:
        manifest = json.loads(bundle.read("manifest.json"))
        target = manifest["targets"][0]
        total, weights = np.zeros(len(target["labels"])), 0.0
        for member in manifest["members"]:
            session = ort.InferenceSession(bundle.read(member["file"]), providers=["CPUExecutionProvider"])
            given = session.get_inputs()[0].name
            how = member["preprocessing"].get("image")
            pixels = np.zeros((1, 1), np.uint8)  # a member that always gives the same answer
            if how:
                pixels = square(options.picture, how["longest"], how["channels"], how["size"])
            views = [pixels, pixels[:, :, ::-1]] if "mirror" in member["views"] else [pixels]
            logits = [session.run([member["output"]], {given: np.ascontiguousarray(v)})[0] for v in views]
            total += member["weight"] * softmax(np.mean(logits, axis=0))[0]
            weights += member["weight"]
    temperature = target["calibration"]["temperature"]
    probabilities = softmax(np.log(total / weights + 1e-30) / temperature)
    for k in np.argsort(-probabilities):
        print(f"{target['labels'][k]}: {probabilities[k]:.3f}")


if __name__ == "__main__":
    main()
