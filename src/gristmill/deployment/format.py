"""The number of the bundle format, and how to change it.

A bundle says the format it was written in (`manifest.json`, field `format`). Readers keep unknown fields and
give absent ones their default, so a new optional field needs no new number. Raise `FORMAT` only when an older
reader would misread the file (a field changes its meaning, a member moves, predictions are combined anew):

1. Add 1 to `FORMAT`.
2. In `manifest.py` bring the old form to the new one when it is read (`upgraded`), keyed by the old number.
3. Keep a small bundle of the old format among the tests, and a test that opens it and gets the old answers.
4. Say in the changelog what changed and which version reads it.

Old formats are read for ever. A newer format than this is refused by its number: guessing would be worse.
"""

from __future__ import annotations

FORMAT = 1

LARGEST_OPSET = 23
"""Newest ONNX operator set that the oldest supported onnxruntime (1.22) runs."""
