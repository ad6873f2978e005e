"""nearzero: do hidden units measure distance or intensity? Perturb them, and see.

import nearzero as nz

study = nz.reproduce("quick")             # or nz.Study.open(folder)
study.response                            # xarray.Dataset
nz.sweep(network, x, y, family="offset")  # one network, from arrays or an nn.Module of this shape
nz.probe(model, loader)                   # any layers of any PyTorch model
"""

import lazy_loader

__version__ = "0.1.0"
# The public names are in __init__.pyi; each is imported when it is first used.
__getattr__, _dir, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __dir__() -> list[str]:
    """Return the public names, which tab completion offers."""
    return [*__all__, "__version__"]
