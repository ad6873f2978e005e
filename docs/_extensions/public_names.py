"""Links to public names: `nz.Study` in a text, and the module in which a class of a signature is defined."""

from __future__ import annotations

from functools import cache

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import nearzero as nz

__all__ = ["SHORT", "setup"]

# How modules are called in the source, and names that are imported alone.
SHORT = {
    "nn": "torch.nn",
    "np": "numpy",
    "npt": "numpy.typing",
    "xr": "xarray",
    "Console": "rich.console.Console",
    "Executor": "concurrent.futures.Executor",
    "Figure": "matplotlib.figure.Figure",
    "PathLike": "os.PathLike",
    "Tensor": "torch.Tensor",
}
# Names under which other projects document what they define elsewhere.
ELSEWHERE = {
    "concurrent.futures._base.Executor": "concurrent.futures.Executor",
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "xarray.core.dataarray.DataArray": "xarray.DataArray",
    "xarray.core.dataset.Dataset": "xarray.Dataset",
}


def public_path(target: str) -> str | None:
    """Return the path under which a name is documented (`nearzero.Study`), or None if it isn't public."""
    head, *rest = target.split(".")
    if head not in ("nz", "nearzero") or not rest:
        return None
    if rest[0] == "datasets":
        return ".".join(("nearzero", *rest)) if set(rest[1:2]) & set(nz.datasets.__all__) else None
    return ".".join(("nearzero", *rest)) if rest[0] in nz.__all__ else None


def link_code(app: Sphinx, document: nodes.document) -> None:
    """Turn inline code that is a public name, `nz.Study` or `nz.probe(...)`, into a link to its description."""
    for code in list(document.findall(nodes.literal)):
        path = public_path(code.astext().partition("(")[0])
        inside = code.parent
        while inside is not None and not isinstance(
            inside, nodes.reference | addnodes.pending_xref | nodes.title
        ):
            inside = inside.parent
        if path is None or inside is not None:
            continue
        link = addnodes.pending_xref(
            "",
            code.deepcopy(),
            refdomain="py",
            reftype="obj",
            reftarget=path,
            refexplicit=True,
            refdoc=app.env.docname,
        )
        code.replace_self(link)


@cache
def defined_at() -> dict[str, str]:
    """Return the public path of each public class and function, by the path where it is defined, and by its name.

    The name alone stands in signatures; names of `nz.datasets` are only known by their whole path, since
    `Dataset` can be another project's.
    """
    paths = {}
    for module, prefix in ((nz, "nearzero"), (nz.datasets, "nearzero.datasets")):
        for name in module.__all__:
            origin = getattr(getattr(module, name), "__module__", None)
            if origin:
                paths[f"{origin}.{name}"] = f"{prefix}.{name}"
    return paths | {name: f"nearzero.{name}" for name in nz.__all__}


def find_public(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: nodes.Element
) -> nodes.reference | None:
    """Resolve `nearzero.study.study.Study`, the class where it is defined, as `nearzero.Study`.

    Names of other projects get their full paths, which intersphinx or `nitpick_ignore_regex` then takes.
    """
    if node.get("refdomain") != "py":
        return None
    path = defined_at().get(node["reftarget"])
    if path is None:
        head, dot, rest = node["reftarget"].partition(".")
        target = SHORT.get(head, head) + dot + rest
        node["reftarget"] = ELSEWHERE.get(target, target)
        return None
    domain = env.domains.python_domain
    resolved = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", path, node, contnode)
    return resolved if isinstance(resolved, nodes.reference) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the events."""
    app.connect("doctree-read", link_code)
    app.connect("missing-reference", find_public, priority=400)  # before intersphinx
    return {"parallel_read_safe": True, "parallel_write_safe": True}
