"""``hf:`` against a hub of our own: a small HTTP server that answers as the real one does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest
from huggingface_hub import constants
from transformers_folders import write_folder

import gptloom
from gptloom.config.errors import UserError
from gptloom.interop import hub
from gptloom.interop.hub import Source, find_source, resolve_model
from gptloom.model.reference import Reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "gpt2"}',
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"a pickle",
    "onnx/model.safetensors": b"more weights",
    "additional_chat_templates/tools.jinja": b"{{ messages }}",
}


class Hub(BaseHTTPRequestHandler):
    """``good/model`` is there, ``gated/model`` wants terms accepted, ``down/model`` is in trouble, others are unknown."""

    asked: list[str] = []  # noqa: RUF012 - filled by every request
    files: dict[str, bytes] = FILES

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        if "gated/" in path:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        if "down/" in path:
            return self._send(503, b"")
        repo = next((name for name in ("good/model", "pickles/model") if f"{name}/" in f"{path}/"), None)
        if repo is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if "/revision/" in path and path.rsplit("/")[-1] not in ("main", "v1", COMMIT):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = {name: text for name, text in self.files.items() if repo == "good/model" or "safetensors" not in name}
        if "/tree/" in path:
            tree = [{"type": "file", "path": name, "size": len(text), "oid": "0" * 40} for name, text in files.items()]
            return self._send(200, json.dumps(tree).encode())
        if path.startswith("/api/"):
            found = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            return self._send(200, json.dumps(found).encode())
        name = path.split(f"/{COMMIT}/", 1)[1]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{name.replace("/", "-")}"'}
        return self._send(200, files[name], headers, body)

    def _send(self, status: int, text: bytes, headers: dict[str, str] | None = None, body: bool = True) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(text)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """The hub's address and cache are ours; the working directory is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    Hub.asked.clear()
    huggingface_hub.close_session()
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield Hub
    huggingface_hub.close_session()
    server.shutdown()
    thread.join()
    server.server_close()


def refusal(reference: str) -> str:
    with pytest.raises(UserError) as caught:
        find_source(reference)
    return str(caught.value)


def test_a_name_is_fetched_without_pickles_and_once(served: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_source("hf:good/model")
    assert (source.name, source.revision, source.folder.name) == ("good/model", COMMIT, COMMIT)
    found = {path.relative_to(source.folder).as_posix() for path in source.folder.rglob("*") if path.is_file()}
    assert found == {"config.json", "model.safetensors", "additional_chat_templates/tools.jinja"}
    assert resolve_model("hf:good/model@v1") == Reference("model", source.folder)
    fetched = [path for path in served.asked if path.endswith("model.safetensors")]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert find_source("hf:good/model") == source
    found = resolve_model("hf:good/model")
    assert resolve_model(found) is found and found.name == "hf:good/model"
    assert [path for path in served.asked if path.endswith("model.safetensors")] == fetched


def test_an_imported_name_is_in_the_lineage_with_its_commit(
    served: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "made", "gpt2")
    monkeypatch.setattr(served, "files", {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()})
    imported = gptloom.import_model("good/model@v1")
    assert imported.path == Path("models/model") and imported.receipt.verified
    source = json.loads(Path("models/model/gptloom.json").read_text(encoding="utf-8"))["lineage"]["source"]
    assert (source["name"], source["revision"]) == ("good/model", COMMIT)


def test_a_gated_name_says_how_to_get_in(served: type[Hub]) -> None:
    text = refusal("hf:gated/model")
    assert "gated/model is gated" in text and "https://huggingface.co/gated/model" in text and "hf auth login" in text


def test_a_name_of_nothing_and_a_revision_of_nothing(served: type[Hub]) -> None:
    text = refusal("hf:nobody/nothing")
    assert "no model of that name on the hub" in text and "no folder 'nobody/nothing'" in text
    assert "good/model has no revision 'v9'" in refusal("hf:good/model@v9")


def test_a_hub_with_pickles_only_says_how_to_convert(served: type[Hub]) -> None:
    text = refusal("hf:pickles/model")
    assert "has no safetensors" in text and "from_pretrained('pickles/model')" in text and "hf:./model" in text


def test_a_hub_that_does_not_answer_says_what_to_download(served: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    text = refusal("hf:good/model@v1")
    assert "the hub cannot be asked" in text and "nor in the hub's cache" in text
    assert "hf download good/model --revision v1 --local-dir model" in text and "*.safetensors" in text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    text = refusal("hf:good/model")
    assert "offline mode" in text and "hf download good/model --local-dir model" in text


def test_a_hub_in_trouble_is_told_by_its_status(served: type[Hub]) -> None:
    text = refusal("hf:down/model")
    assert "503" in text and "hf download down/model" in text


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    text = refusal("hf:good/model")
    assert 'pip install "gptloom[hub]"' in text and "hf download good/model" in text


def test_a_folder_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("good/model")
    folder.mkdir(parents=True)
    assert "there is no config.json" in refusal("hf:good/model")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert find_source("hf:good/model") == Source(folder, "good/model") == find_source("good/model")
    assert resolve_model("hf:./good/model") == Reference("model", folder)


@pytest.mark.parametrize(
    "name",
    [
        "/nowhere/at/all",
        "./nowhere",
        "a/b/c",
        "org/name@",
        "with space",
        "",
        "hf:org/name",
        "~nobody-of-that-name/x",
        "x/" + "y" * 400 + "/z",
    ],
)
def test_what_cannot_be_a_name_is_not_asked_for(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_fetch", lambda *_: pytest.fail("the hub was asked"))
    if name:
        assert "ORG/NAME" in refusal(f"hf:{name}")
    else:
        assert "config.json" in refusal("hf:")


def test_a_file_is_no_model(tmp_path: Path) -> None:
    for name, words in (("pytorch_model.bin", "runs whatever code"), ("model.safetensors", "a model is a folder")):
        (tmp_path / name).write_bytes(b"x")
        assert words in refusal(f"hf:{tmp_path / name}")
