"""nearzero: do hidden units measure distance or intensity? Perturb them, and see.

import nearzero as nz

study = nz.reproduce("quick")             # or nz.Study.open(folder)
study.response                            # xarray.Dataset
nz.sweep(network, x, y, family="offset")  # one network, from arrays or an nn.Module of this shape
nz.probe(model, loader)                   # any layers of any PyTorch model
"""

import lazy_loader as _lazy_loader

from nearzero.support.display import set_display as _set_display

__version__ = "0.2.0"
# The public names are in __init__.pyi; each is imported when it is first used.
_imported, _, __all__ = _lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    """Import a public name, or suggest the nearest one."""
    if name in __all__:
        return _imported(name)
    from nearzero.errors import did_you_mean

    hint = did_you_mean(name, __all__).strip()
    raise AttributeError(f"module 'nearzero' has no attribute {name!r}{': ' if hint else ''}{hint}")


def _to_html(result: object) -> str:
    """Return a result as notebooks display it; the report is imported when the first one is displayed."""
    from nearzero.report.notebook import to_html

    return to_html(result)


_set_display(_to_html)


def __dir__() -> list[str]:
    """Return the public names, which tab completion offers."""
    return [*__all__, "__version__"]
