"""Models and data by name: `hf:`, `timm:` and `torchvision:`, image folders and text files.

Everything is loaded by the library that a name's prefix chooses, from its own cache or the hub. `registry` chooses;
`hf_models`, `hf_data`, `timm_models` and `torchvision_models` load; `images` and `texts` turn data into batches.
Only tensors are read from weights, and no code that comes with a model or data is run.
"""

from nearzero.torch_models.named.options import Loading
from nearzero.torch_models.named.registry import (
    LIBRARIES,
    Library,
    Named,
    is_named,
    is_raw,
    open_data,
    open_model,
    resolve,
)
from nearzero.torch_models.named.sources import NamedData, NamedModel, Origin, Preparation, RawData, record

__all__ = [
    "LIBRARIES",
    "Library",
    "Loading",
    "Named",
    "NamedData",
    "NamedModel",
    "Origin",
    "Preparation",
    "RawData",
    "is_named",
    "is_raw",
    "open_data",
    "open_model",
    "record",
    "resolve",
]
