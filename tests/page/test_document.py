"""The page as a text: escaping, the policy that forbids the network, arrays, and the libraries that it carries."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources

import numpy as np
import pytest

from nearzero.page import document as pages
from nearzero.page.arrays import embed_arrays
from nearzero.page.document import PageData, Section, document, page_script, policy_for
from nearzero.report.render.html import to_html
from nearzero.report.render.markup import Markup, joined, tag
from nearzero.report.table import Column, Number, Span, Table, TAndP

HOSTILE = "</script><script>alert(1)</script>\"'&"
ASSETS = resources.files("nearzero.page") / "assets"
SCRIPT = re.compile(r"<script([^>]*)>(.*?)</script>", re.DOTALL)
ELEMENT = re.compile(
    r'<script type="text/plain" data-array="([^"]*)" data-type="(\w+)Array" data-shape="([\d,]*)">([^<]*)</script>'
)


def small(values: dict[str, object] | None = None) -> str:
    section = Section(name="one", heading=HOSTILE, body=tag("p", HOSTILE))
    return document(HOSTILE, tag("h1", HOSTILE), [section], PageData(values or {}))


def test_every_text_from_outside_is_escaped() -> None:
    page = small({"text": HOSTILE})
    inside = [content for attributes, content in SCRIPT.findall(page) if "alert" in content]
    assert page.count("alert(1)") == 6  # title, heading, navigation, heading, paragraph, data
    assert len(inside) == 1  # the data, which is no script
    assert "<script>alert" not in page
    assert json.loads(inside[0]) == {"text": HOSTILE}


def test_only_the_pages_own_scripts_may_run() -> None:
    page = small()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    allowed = set(re.findall(r"&#x27;sha256-([\w+/=]+)&#x27;", policy[1]))
    running = [content for attributes, content in SCRIPT.findall(page) if "type=" not in attributes]
    hashes = {base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in running}
    assert hashes == allowed
    assert len(running) == 4
    assert policy[1].startswith("default-src &#x27;none&#x27;; script-src ")
    for word in ("unsafe-eval", "connect-src", "http:", "https:", "*"):
        assert word not in policy[1]
    assert "'unsafe-inline'" not in policy_for(["1"]).split("style-src")[0]


def test_the_page_asks_for_nothing() -> None:
    """No element of the page names a file or an address; those in the libraries are names of formats."""
    page = SCRIPT.sub("", small())
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', page) == []
    assert "@import" not in page
    assert "url(" not in page


def test_modules_find_what_they_import() -> None:
    """Every import names an earlier module, and what that exports; no module is left out."""
    known: dict[str, set[str]] = {}
    for name in pages.MODULES:
        source = (ASSETS / name).read_text(encoding="utf-8")
        imports = pages.IMPORT.findall(source)
        assert len(imports) == len(re.findall(r"^import ", source, re.MULTILINE)), name
        for names, module in imports:
            assert {each.strip() for each in names.strip("{} \n").split(",") if each.strip()} <= known[module]
        known[name] = {found[1] for found in pages.EXPORT.findall(source)}
        assert len(known[name]) == len(re.findall(r"^export ", source, re.MULTILINE)), name
    assert {path.name for path in ASSETS.iterdir() if path.name.endswith(".js")} == set(pages.MODULES)
    assert not re.search(r"^(import|export) ", page_script(), re.MULTILINE)


def test_scripts_make_no_code_of_text_and_no_html_of_text() -> None:
    for name in pages.MODULES:
        source = (ASSETS / name).read_text(encoding="utf-8")
        for word in ("eval(", "new Function", "innerHTML", "document.write", "insertAdjacentHTML", "fetch("):
            assert word not in source, f"{name}: {word}"


def test_the_libraries_are_those_that_are_named() -> None:
    licences = (ASSETS / "vendor" / "LICENCES.txt").read_text(encoding="utf-8")
    for name in pages.VENDORED:
        content = (ASSETS / "vendor" / name).read_bytes()
        assert f"{hashlib.sha256(content).hexdigest()}  {name}" in licences
        assert b"</script" not in content
        assert b"sourceMappingURL" not in content


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32", "float64", ">f4"])
def test_arrays_come_back(dtype: str, rng: np.random.Generator) -> None:
    values = (
        (rng.normal(size=(3, 4)) * 100).astype(dtype)
        if "f" in dtype
        else rng.integers(0, 200, (3, 4)).astype(dtype)
    )
    found = ELEMENT.fullmatch(embed_arrays({"a/b": values}))
    assert found is not None
    name, kind, shape, text = found.groups()
    read = np.frombuffer(base64.b64decode(text), np.dtype(kind.lower()).newbyteorder("<"))
    assert name == "a/b"
    assert shape == "3,4"
    assert np.array_equal(read.reshape(3, 4), values)


def test_other_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match=r"a page can't hold an array of int64; labels must be one of uint8"):
        embed_arrays({"labels": np.arange(3)})


def test_data_that_json_has_no_name_for_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        small({"level": float("nan")})


def test_markup_is_escaped_once() -> None:
    once = tag("b", "a<b")
    assert once == "<b>a&lt;b</b>"
    assert tag("p", once, None, [" ", 1.5, ()]) == "<p><b>a&lt;b</b> 1.5</p>"
    assert joined(HOSTILE) == joined([HOSTILE])
    assert isinstance(once, Markup)


def test_a_table_carries_full_values() -> None:
    columns = (
        Column("name", "name", kind="text"),
        Column("mean", "mean"),
        Column("interval", "interval", kind="interval"),
        Column("test", "vs identity", kind="test"),
    )
    rows = (
        (HOSTILE, Number(1.23456), Span(1.0, 2.0), TAndP(2.5, 1e-320, 20)),
        ("b", None, None, TAndP(None, None, 20, "all pairs equal")),
    )
    text = to_html(
        Table(
            name="t", title=HOSTILE, caption="c", columns=columns, rows=rows, notices=(HOSTILE,), group="name"
        )
    )
    assert "<script" not in text
    assert '<td class="number" data-value="1.23456">1.23</td>' in text
    assert '<td class="number" data-value="1.5">1.00–2.00</td>' in text
    assert "&lt;1e-300" in text
    assert "all pairs equal" in text
    assert text.count('<th scope="col"') == 5
    assert f'aria-label="{html.escape(HOSTILE)}"' in text
