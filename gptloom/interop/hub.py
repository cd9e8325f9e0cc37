"""Models from the Hugging Face world: ``hf:FOLDER``, or ``hf:ORG/NAME@REVISION`` fetched from the hub.

``resolve_model`` is how every command finds the model that a user names; the other references are those of
``gptloom.model.reference``, which knows this machine only.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import is_preset
from gptloom.model.folder import CONFIG_FILE, CONVERT, PICKLES, refuse_pickle
from gptloom.model.reference import Reference, is_adapter, path_of, resolve_reference
from gptloom.observe.terminal import terminal
from gptloom.tokenizer.tokenizer import TOKENIZER_FILE

PREFIX = "hf:"
FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.bpe", "tokenizer.model")
OTHER_FILES = ("*/*.safetensors", "consolidated*.safetensors", "*.fp16.safetensors")  # more copies of the weights
HUB_NAMES_OF_PRESETS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")  # which the hub has without ORG/
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Source:
    """A model folder from elsewhere.

    Attributes:
        folder: where it is on this machine.
        name: what it was called: the hub's name, or the path.
        revision: the commit on the hub; None for a folder.
    """

    folder: Path
    name: str
    revision: str | None = None


def resolve_model(reference: str | Path | Reference) -> Reference:
    """What a model reference names, ``hf:`` included; what that stands for is fetched to this machine.

    An adapter stands for its base with it merged in: a folder of this process, which goes with it. What was resolved
    before is returned as it is: looking again may ask the hub once more.

    Raises:
        UserError: nothing is called that, or it cannot be had: see ``find_source``, ``resolve_reference`` and, for
            adapters, ``merged_folder``.
    """
    if isinstance(reference, Reference):
        return reference
    name = str(reference)
    found = Reference("model", find_source(name).folder) if name.startswith(PREFIX) else resolve_reference(name)
    if found.path is not None and is_adapter(found.path):
        from gptloom.interop.adapter import merged_folder  # takes torch, which most who ask for a name do without

        found = Reference("model", merged_folder(found.path, resolve_model))
    return replace(found, name=name)


def tokenizer_folder(model: Reference) -> Path:
    """Where the tokenizer of a model on disk lies; a run's checkpoints may leave it to the run."""
    assert model.path is not None
    if model.run is not None and not (model.path / TOKENIZER_FILE).is_file():
        inside = model.run / "tokenizer"
        return inside if inside.is_dir() else model.run
    return model.path


def find_source(reference: str) -> Source:
    """The model folder that ``PATH`` or ``ORG/NAME[@REVISION]`` names, with or without ``hf:`` before it.

    An existing path wins over a name of the hub.

    Raises:
        UserError: no such folder, no model in it; or a name of the hub without ``huggingface_hub`` or a network, that
            is gated, or that does not exist. What to do is said.
    """
    text = reference.removeprefix(PREFIX)
    path = path_of(text)
    if path is not None and path.exists():
        return Source(_model_folder(path), text)
    if text == reference and is_preset(text) and text not in HUB_NAMES_OF_PRESETS:
        what = f"{text} is a preset: it has no trained weights to import"
        mend = f"gptloom pretrain --model {text} --data FILE --out runs/{text}; a model of the hub: ORG/NAME"
        raise UserError(Problem(what, mend=mend))
    name, _, revision = text.partition("@")
    if not HUB_NAME.fullmatch(name) or text.endswith("@"):
        what = f"there is no folder {text!r}, and a model of the hub is called ORG/NAME or ORG/NAME@REVISION"
        raise UserError(Problem(what, mend="the path of a folder with config.json, or hf:ORG/NAME"))
    folder = _fetch(name, revision or None)
    return Source(_with_weights(folder, name), name, folder.name)


def _model_folder(path: Path) -> Path:
    if path.is_file():
        if path.suffix in PICKLES:
            raise refuse_pickle(path)
        raise UserError(Problem("a model is a folder, and this is a file", str(path), f"its folder: {path.parent}"))
    if not (path / CONFIG_FILE).is_file() and not is_adapter(path):
        raise UserError(Problem(f"there is no {CONFIG_FILE}: not a model folder", str(path)))
    return path


def _with_weights(folder: Path, name: str) -> Path:
    """``folder``; ``UserError`` where the hub has no safetensors of it, since pickles are never fetched."""
    if any(folder.glob("*.safetensors")):
        return _model_folder(folder)
    what = f"{name} has no safetensors on the hub; pickled weights run whatever code their maker put in"
    convert = CONVERT.format(name, Path(name).name)
    raise UserError(Problem(what, mend=f"where you trust it, convert it: {convert}; then hf:./{Path(name).name}"))


def fetched_models() -> Iterator[tuple[str, Path]]:
    """(``ORG/NAME``, snapshot folder) of each model that was fetched from the hub before, the newest snapshot of each."""
    if find_spec("huggingface_hub") is None:
        return
    from huggingface_hub import constants

    for repository in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        snapshots = [
            folder
            for folder in repository.glob("snapshots/*")
            if (folder / CONFIG_FILE).is_file() and any(folder.glob("*.safetensors"))
        ]
        if snapshots:
            name = repository.name.removeprefix("models--").replace("--", "/", 1)
            yield name, max(snapshots, key=lambda folder: folder.stat().st_mtime)


def _fetch(name: str, revision: str | None) -> Path:
    """The snapshot's folder, named after its commit; what is in the cache is not fetched again."""
    download = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    if find_spec("huggingface_hub") is None:
        here = f"or, where it is installed: {download} --local-dir {Path(name).name}, then hf:./{Path(name).name} here"
        what = (
            f"there is no folder {name!r}, and fetching it from the hub takes huggingface_hub, which is not installed"
        )
        raise UserError(Problem(what, mend=f'pip install "gptloom[hub]"; {here}'))
    from huggingface_hub import errors, snapshot_download

    try:
        with _bars_at_a_terminal():
            found = snapshot_download(
                name, revision=revision, allow_patterns=list(FILES), ignore_patterns=list(OTHER_FILES)
            )
    except errors.GatedRepoError:
        mend = f"accept them at https://huggingface.co/{name}, then hf auth login, then the same command"
        raise UserError(
            Problem(f"{name} is gated: its owners give it to those who accept their terms", mend=mend)
        ) from None
    except errors.RepositoryNotFoundError:
        mend = "check the name at https://huggingface.co/models; for a private one: hf auth login"
        raise UserError(
            Problem(f"there is no folder {name!r} here and no model of that name on the hub", mend=mend)
        ) from None
    except errors.RevisionNotFoundError:
        mend = f"leave @{revision} out, or see https://huggingface.co/{name}/tree/main for the revisions"
        raise UserError(Problem(f"{name} has no revision {revision!r}", mend=mend)) from None
    except errors.HFValidationError as error:
        raise UserError(Problem(f"not a name of the hub: {error}", mend="hf:ORG/NAME")) from None
    except (errors.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise UserError(_unreachable(name, download, error)) from None
    return Path(found)


def _unreachable(name: str, download: str, error: Exception) -> Problem:
    """No network, the offline mode, or a hub that does not answer."""
    reason = " ".join(str(error.__cause__ or error).split())[:200]
    folder = Path(name).name
    what = f"{name} is neither a folder here nor in the hub's cache on this machine, and the hub cannot be asked ({reason})"
    files = ", ".join(FILES[:4])
    mend = f"where there is a network: {download} --local-dir {folder}  ({files}); bring the folder here: hf:./{folder}"
    return Problem(what, mend=mend)


@contextmanager
def _bars_at_a_terminal() -> Iterator[None]:
    """Progress bars of the hub's library only where lines may move."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if terminal.moves or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
