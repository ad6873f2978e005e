"""Settings of the documentation site: `make docs` builds it strictly, without network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent / "src"), str(DOCS / "_extensions")]  # this checkout's, whatever is installed

from public_names import SHORT

import nearzero

project = "nearzero"
author = "The nearzero authors"
copyright = author
version = release = nearzero.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "myst_nb",
    "docstrings",  # these four are in docs/_extensions
    "generated_pages",
    "live_page",
    "public_names",
]
exclude_patterns = ["_build", "_extensions", "**/.ipynb_checkpoints"]
nitpicky = True

# Markdown. Anchors are those of GitHub, so that a link holds on both sides.
myst_heading_anchors = 4
highlight_language = "none"
smartquotes_action = "D"  # dashes only; quotes belong to values: "raw"

# Notebooks are stored without outputs. `make docs-test` builds the site with `-D nb_execution_mode=force`.
nb_execution_mode = "off"
nb_execution_timeout = 300
nb_execution_raise_on_error = True

# Docstrings: Google's sections, types in the signature.
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # types of attributes are in signatures, with short names
napoleon_custom_sections = ["Keys", ("Returns", "text"), ("Yields", "text")]  # text, without a type
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"npt.ArrayLike": "numpy.typing.ArrayLike", "npt.NDArray": "numpy.typing.NDArray"}
python_maximum_signature_line_length = 88
default_role = "code"  # docstrings mark code with single backquotes, as Markdown does

# Other projects' names are links if the build may fetch their inventories: NEARZERO_DOCS_ONLINE=1.
# Otherwise the build needs no network, and these names are text.
ONLINE = os.environ.get("NEARZERO_DOCS_ONLINE") == "1"
PROJECTS = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "xarray": "https://docs.xarray.dev/en/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "matplotlib": "https://matplotlib.org/stable/",
    "rich": "https://rich.readthedocs.io/en/stable/",
}
intersphinx_mapping = {name: (address, None) for name, address in PROJECTS.items()} if ONLINE else {}
STANDARD = ("collections", "concurrent", "os", "pathlib")  # modules of Python that signatures name
OTHERS = rf"({'|'.join((*PROJECTS, *STANDARD, *SHORT))})(\..*)?"

# A reference that leads nowhere is an error, except for these.
nitpick_ignore_regex = [
    # names of other projects, in a build without network
    *([] if ONLINE else [("py:.*", OTHERS)]),
    # numpy's own types behind ArrayLike, which it doesn't document
    ("py:class", r"numpy\._typing\..*"),
    # pydantic's strict types, which stand for str, int and float
    ("py:class", r"Strict(Str|Int|Float)"),
    # protocols of the verdict: what a `Study`, a `Grid` and the runs of a model have in common
    ("py:class", r"nearzero\.analysis\.verdict\.sources\.(Measured|Judged)"),
    # attributes that say how something was found or is stored, and have no use of their own
    ("py:class", r"nearzero\.torch_models\.layer\.(RowAxes|Coordinates)"),
    ("py:class", r"nearzero\.torch_models\.named\.sources\.(Preparation|ModelRecipe)"),
    ("py:class", r"nearzero\.datasets\.registry\.NpmPackage"),
    ("py:class", r"nearzero\.paper\.audit\.evidence\.Evidence"),
    ("py:class", r"nearzero\.study\.store\.Store"),
    ("py:class", r"nearzero\.support\.workers\.workers\.Limits"),
    # what one study hands to a grid that trains many
    ("py:class", r"DataSource|TrainJob"),
    # tables ready to be printed, whose numbers are in the files
    ("py:class", r"nearzero\.report\.table\.Table"),
    ("py:class", r"nearzero\.training\.train\.Recipe"),
    # a type variable, the literal "pre" or "post", and what does the work: an executor, `Workers` or None
    ("py:class", r"Float|Side|AnyExecutor"),
]

html_theme = "furo"
html_title = "nearzero"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
