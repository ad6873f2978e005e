"""Models, weights and data by name, for the command line: `package.module:function`, files, data sets.

Importing a module runs it, as `python -m` does. Weights and data are read as plain tensors, never unpickled.
`objects` finds what a name says, `data` and `weights` read files, and `fitting` puts weights into a model.
"""

from nearzero.torch_models.loading.data import PixelScale, load_data
from nearzero.torch_models.loading.digest import data_digest
from nearzero.torch_models.loading.fitting import LoadedWeights, load_weights
from nearzero.torch_models.loading.objects import build_model, object_of, watch_loading
from nearzero.torch_models.loading.tokenizer import load_tokenizer
from nearzero.torch_models.loading.weights import weights_of_runs

__all__ = [
    "LoadedWeights",
    "PixelScale",
    "build_model",
    "data_digest",
    "load_data",
    "load_tokenizer",
    "load_weights",
    "object_of",
    "watch_loading",
    "weights_of_runs",
]
