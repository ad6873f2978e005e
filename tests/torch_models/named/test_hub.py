"""The way with a network, against a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from local_models import COMMIT, OLDER, TEXT, gpt2, use_caches

import nearzero as nz
from nearzero.torch_models.named.packages import imported

LAYER = "transformer.h.0.mlp.act"
REFS = {"main": COMMIT, "v1.0": OLDER}


class Hub(BaseHTTPRequestHandler):
    """Answer for one repository, org/name, whose commits are folders."""

    commits: dict[str, Path]
    asked: list[str]

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path == "/api/models":
            return self.answer(json.dumps([{"id": "org/name", "modelId": "org/name"}]).encode())
        if path == "/api/models/org/name/refs":
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in REFS.items()
            ]
            return self.answer(json.dumps({"branches": branches, "tags": [], "converts": []}).encode())
        if path.startswith("/api/models/org/name/tree/"):  # without subfolders
            commit = self.commit_of(path.removeprefix("/api/models/org/name/tree/").partition("/")[0])
            folder = self.commits[commit or COMMIT]
            files = [
                {"type": "file", "path": each.name, "oid": "0", "size": each.stat().st_size}
                for each in folder.iterdir()
            ]
            return self.answer(json.dumps(files).encode())
        if path.startswith("/api/models/org/name"):
            commit = self.commit_of(path.rpartition("/revision/")[2] if "/revision/" in path else "main")
            if commit is None:
                return self.missing("RevisionNotFound")
            files = [{"rfilename": file.name} for file in self.commits[commit].iterdir()]
            found = {
                "id": "org/name",
                "modelId": "org/name",
                "sha": commit,
                "siblings": files,
                "private": False,
                "tags": [],
            }
            return self.answer(json.dumps(found).encode())
        if path.startswith("/org/name/resolve/"):
            revision, _, name = path.removeprefix("/org/name/resolve/").partition("/")
            commit = self.commit_of(revision)
            if commit is None:
                return self.missing("RevisionNotFound")
            file = self.commits[commit] / name
            if not file.is_file():
                return self.missing("EntryNotFound")
            content = file.read_bytes()
            return self.answer(
                content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
            )
        return self.missing("RepoNotFound")

    def commit_of(self, revision: str) -> str | None:
        commit = REFS.get(revision, revision)
        return commit if commit in self.commits else None

    def missing(self, code: str) -> None:
        self.answer(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, 404)

    def answer(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[type[Hub]]:
    """Serve two commits of a language model, and let the libraries ask this server with an empty cache."""
    use_caches(monkeypatch, tmp_path / "caches", offline=False)
    Hub.commits = {COMMIT: gpt2(tmp_path / "new", seed=0), OLDER: gpt2(tmp_path / "old", seed=1)}
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    constants = imported("huggingface_hub.constants")
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_is_fetched_at_one_commit_and_then_read_from_the_cache(hub, monkeypatch) -> None:
    for name, commit in (("hf:org/name", COMMIT), ("hf:org/name@v1.0", OLDER)):
        result = nz.probe(name, "text.txt", LAYER, levels=2, metrics=["cross_entropy"])
        expected = nz.probe(
            f"hf:{hub.commits[commit]}", "text.txt", LAYER, levels=2, metrics=["cross_entropy"]
        )
        assert result.response.cross_entropy.equals(expected.response.cross_entropy)
        assert result.origins["model"].revision == commit
        assert result.origins["model"].files == expected.origins["model"].files
        fetched = [path for path in hub.asked if path.startswith("/org/name/resolve/")]
        assert fetched
        assert all(path.startswith(f"/org/name/resolve/{commit}/") for path in fetched)
        hub.asked.clear()
    monkeypatch.setattr(imported("huggingface_hub.constants"), "HF_HUB_OFFLINE", True)
    again = nz.probe(f"hf:org/name@{OLDER}", "text.txt", LAYER, levels=2, metrics=["cross_entropy"])
    assert again.response.cross_entropy.equals(result.response.cross_entropy)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:org/nane", "the hub has no model 'org/nane', or it is private; did you mean 'org/name'?"),
        ("hf:org/name@v1.1", "org/name has no revision 'v1.1': did you mean 'v1.0'? known are main, v1.0"),
    ],
)
def test_the_hub_says_what_is_nearest(hub, name, message) -> None:
    with pytest.raises(nz.InputError) as caught:
        nz.probe(name, "text.txt")
    assert str(caught.value) == message
