"""A page in headless Chromium, offline, as a reader opens it from disk."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = (
    "Playwright isn't installed"
    if importlib.util.find_spec("playwright") is None
    else "no chromium is installed (apt-get install chromium)"
    if CHROMIUM is None
    else ""
)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@dataclass
class Opened:
    """An open page, and everything that it complained about."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Wait until the script has answered the last event."""
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def set_number(self, identity: str, value: float) -> None:
        """Type a number, as the field's value and an event."""
        self.page.evaluate(
            "([id, value]) => { const input = document.getElementById(id); input.value = value;"
            " input.dispatchEvent(new Event('input')); }",
            [identity, repr(float(value))],
        )

    def outcome(self) -> dict[str, int]:
        """Return the counts of the unit explorer."""
        self.settle()
        data = self.page.evaluate("() => ({...document.getElementById('unit-outcome').dataset})")
        return {key: int(value) for key, value in data.items()}

    def confusion(self) -> np.ndarray:
        """Return the confusion matrix of the unit explorer, (labels, predictions)."""
        self.settle()
        rows = self.page.evaluate(
            "() => [...document.querySelectorAll('#unit-confusion tbody tr')]"
            ".map((row) => [...row.querySelectorAll('td')].map((cell) => Number(cell.textContent)))"
        )
        return np.array(rows)


@contextmanager
def browser() -> Iterator[Any]:
    """Yield a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@contextmanager
def opened(running: Any, path: Path, **context: Any) -> Iterator[Opened]:
    """Yield a page from disk, with the network cut off; whatever it asks of the network is a complaint."""
    settings = {"viewport": {"width": 1400, "height": 900}, "offline": True} | context
    where = running.new_context(**settings)
    held = Opened(where.new_page())
    held.page.on("console", lambda message: held.complaints.append(f"{message.type}: {message.text}"))
    held.page.on("pageerror", lambda error: held.complaints.append(f"error: {error}"))
    held.page.on(
        "request",
        lambda request: (
            request.url.startswith(("http", "ws")) and held.complaints.append(f"asks {request.url}")
        ),
    )
    held.page.goto(path.resolve().as_uri())
    try:
        held.page.wait_for_selector("html[data-ready=true]", state="attached")
        yield held
    except Exception as error:
        error.add_note(f"the page's complaints: {held.complaints}")
        raise
    finally:
        where.close()
