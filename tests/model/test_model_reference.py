from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.model.reference import Reference, resolve_reference
from gptloom.observe.runs import is_run


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def make_run(
    folder: Path, steps: tuple[int, ...] = (), best: int | None = None, final: bool = False, broken: int | None = None
) -> Path:
    folder.mkdir(parents=True)
    best_step = "null" if best is None else best
    (folder / "state.json").write_text(f'{{"state": "finished", "best_step": {best_step}}}', encoding="utf-8")
    for step in (*steps, *(() if broken is None else (broken,))):
        checkpoint = folder / "checkpoints" / f"step-{step:08}"
        model_folder(checkpoint / "model")
        if step != broken:
            (checkpoint / "state.json").write_text("{}", encoding="utf-8")
    if final:
        model_folder(folder / "final")
    return folder


def checkpoint(run: Path, step: int) -> Reference:
    return Reference("run", run / "checkpoints" / f"step-{step:08}" / "model", run, step)


def refusal(text: object) -> str:
    with pytest.raises(UserError) as caught:
        resolve_reference(str(text))
    return str(caught.value)


def test_a_run_stands_for_final_then_best_then_last(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", (100, 500), best=100, final=True)
    assert resolve_reference(str(run)) == Reference("run", run / "final", run)
    run = make_run(tmp_path / "b", (100, 500), best=100)
    assert resolve_reference(str(run)) == checkpoint(run, 100)
    run = make_run(tmp_path / "c", (100, 500))
    assert resolve_reference(str(run)) == checkpoint(run, 500)
    run = make_run(tmp_path / "d", (100, 500), best=300)  # the best one is gone
    assert resolve_reference(str(run)) == checkpoint(run, 500)


def test_at_chooses_a_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", (100, 500), best=100, final=True)
    assert resolve_reference(f"{run}@500") == checkpoint(run, 500)
    assert resolve_reference(f"{run}@best") == checkpoint(run, 100)
    assert resolve_reference(f"{run}@last") == checkpoint(run, 500)


def test_a_missing_checkpoint_names_those_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", (100, 500), best=300)
    assert "@100, @500" in refusal(f"{run}@200")
    assert "best step was 300" in refusal(f"{run}@best")
    assert "a step, best or last" in refusal(f"{run}@newest")
    assert "no evaluation" in refusal(f"{make_run(tmp_path / 'b', (1,))}@best")
    assert "keeps none" in refusal(f"{make_run(tmp_path / 'c')}@last")
    assert "no run folder" in refusal(f"{model_folder(tmp_path / 'm')}@5")


def test_an_unfinished_checkpoint_is_not_seen(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", (100,), broken=200)
    assert resolve_reference(str(run)) == checkpoint(run, 100)
    assert "no checkpoint @200" in refusal(f"{run}@200")
    assert "unfinished" in refusal(run / "checkpoints" / "step-00000200")


def test_a_run_without_weights_says_so(tmp_path: Path) -> None:
    assert "saved no weights" in refusal(make_run(tmp_path / "a"))


def test_model_folders_and_checkpoint_folders(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m@2")  # an existing path wins over the meaning of @
    assert resolve_reference(str(folder)) == Reference("model", folder)
    run = make_run(tmp_path / "a", (100,))
    step = run / "checkpoints" / "step-00000100"
    assert resolve_reference(str(step)) == Reference("model", step / "model")
    assert is_run(run) and not is_run(step) and not is_run(folder)


def test_a_comparison_is_no_model_and_names_its_runs(tmp_path: Path) -> None:
    for name in ("seed-1", "seed-2"):
        make_run(tmp_path / "seeds" / name, final=True)
    (tmp_path / "seeds" / "comparison.json").write_text("{}", encoding="utf-8")
    told = refusal(tmp_path / "seeds")
    assert "a comparison of several runs" in told and "seeds/comparison.md" in told
    assert (tmp_path / "seeds" / "seed-1").as_posix() in told and (tmp_path / "seeds" / "seed-2").as_posix() in told


@pytest.mark.parametrize("name", ["gpt2", "modern-small", "fast-nano", "small", "modern"])
def test_presets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_reference(name) == Reference("preset", preset=name)
    model_folder(tmp_path / name)  # an existing path wins
    assert resolve_reference(name) == Reference("model", Path(name))


def test_nearest_names_of_runs_and_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "plays", (1,))
    assert "did you mean runs/plays?" in refusal("plays")
    assert "did you mean runs/plays?" in refusal("play")
    assert "did you mean runs/plays?" in refusal("runs/pays")
    assert "did you mean runs/plays?" in refusal("elsewhere/plays@best")
    assert "modern-small" in refusal("modern-smal")
    assert "runs/plays" in refusal("zzz")


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pkl", ".ckpt", ".pth"])
def test_pickles_are_refused_with_the_reason(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"\x80\x04")
    assert "runs whatever code" in refusal(file)
    assert "runs whatever code" in refusal(tmp_path)


def test_other_files_and_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "its folder" in refusal(tmp_path / "model.safetensors")
    assert "neither a model folder" in refusal(tmp_path)


def test_resolving_needs_no_torch() -> None:
    code = "import sys, gptloom.model.reference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("text", ["~nobody-of-that-name/x", "~nobody-of-that-name@5", "x" * 400, "x" * 400 + "@last"])
def test_what_can_be_no_path_is_called_nothing(text: str) -> None:
    assert "no run, model folder or preset is called" in refusal(text)


def test_the_weights_of_a_run_are_enough(tmp_path: Path) -> None:
    run = make_run(tmp_path / "copied", (100,), final=True)
    (run / "state.json").unlink()
    assert resolve_reference(str(run)) == Reference("run", run / "final", run)
    assert resolve_reference(f"{run}@100") == checkpoint(run, 100)
