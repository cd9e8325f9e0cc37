"""Layers: default < recipe < given, what is derived and why, and config.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

import gptloom
from gptloom.config.errors import UserError
from gptloom.config.options import BudgetOptions, DeviceOption, JsonOption, SeedOption
from gptloom.config.resolve import Resolved, Setting, explain, idle, read_config, resolve, write_config


class Sample(SeedOption, DeviceOption, BudgetOptions, JsonOption):
    data: list[str] = Field([], description="text files")
    lr: float | None = Field(None, gt=0, description="learning rate")


def test_each_layer_wins_over_the_one_below_and_is_named() -> None:
    resolved = resolve(Sample, {"lr": "2e-3"}, {"lr": 1e-3, "max_steps": 50}, "tiny", "command line")
    assert resolved["lr"] == Setting(2e-3, "command line")
    assert resolved["max_steps"] == Setting(50, "recipe tiny")
    assert resolved["seed"] == Setting(1337, "default")
    assert [resolved.given(name) for name in ("lr", "max_steps", "seed")] == [True, True, False]


def test_a_value_equal_to_the_default_still_counts_as_given() -> None:
    assert resolve(Sample, {"seed": 1337})["seed"] == Setting(1337, "python")


def test_none_means_not_given_in_every_layer() -> None:
    resolved = resolve(Sample, {"lr": None}, {"lr": 1e-3, "max_steps": None}, "tiny")
    assert resolved["lr"].source == "recipe tiny"
    assert resolved["max_steps"].source == "default"


def test_derived_values_carry_their_rule_and_are_checked() -> None:
    resolved = resolve(Sample, {}).derive("lr", 3e-4, "3e-4 at 124M parameters")
    assert resolved["lr"] == Setting(3e-4, "derived", "3e-4 at 124M parameters")
    assert resolved.options.lr == 3e-4 and not resolved.given("lr")
    with pytest.raises(UserError):
        resolved.derive("max_steps", -1, "wrong")


def test_derive_leaves_the_original_alone_and_never_overrides_the_user() -> None:
    resolved = resolve(Sample, {"lr": 1e-3})
    with pytest.raises(AssertionError, match="given"):
        resolved.derive("lr", 3e-4, "rule")
    with pytest.raises(AssertionError, match="no option"):
        resolved.derive("learning_rate", 3e-4, "rule")
    resolved.derive("max_steps", 5, "rule")
    assert resolved.options.max_steps is None


def test_only_options_that_were_given_are_idle() -> None:
    resolved = resolve(Sample, {"max_steps": 5, "seed": 1337})
    found = idle(resolved, ["device", "max_steps", "seed"], "nothing is trained")
    assert [problem.what for problem in found] == [
        "--max-steps does nothing: nothing is trained",
        "--seed does nothing: nothing is trained",
    ]


def test_problems_of_both_layers_are_reported_together_each_with_its_place() -> None:
    with pytest.raises(UserError) as caught:
        resolve(
            Sample,
            {"sed": "3", "max_minutes": "x"},
            {"lr": -1, "max_stepz": 4},
            "tiny",
            "command line",
            {"lr": "tiny.yaml:7", "max_stepz": "tiny.yaml:8"},
        )
    found = {problem.what: problem for problem in caught.value.problems}
    assert found["there is no option --sed"].mend == "did you mean --seed?"
    assert found["--max-minutes 'x' is not a number"].where is None
    assert found["lr -1 must be greater than 0.0"].where == "tiny.yaml:7"
    unknown = found["there is no option max_stepz"]
    assert unknown.where == "tiny.yaml:8" and unknown.mend is not None and "max_steps" in unknown.mend
    assert len(found) == 4


def example() -> Resolved[Sample]:
    resolved = resolve(Sample, {"data": ["plays é.txt", "b"]}, {"device": "cpu"}, "tiny", "command line")
    return resolved.derive("max_steps", 2000, "10 minutes at 3.3 steps/s: here")


def test_config_yaml_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_config(path, example(), "pretrain")
    document = read_config(path)
    assert (document["version"], document["command"], document["gptloom"]) == (1, "pretrain", gptloom.__version__)
    assert document["options"]["data"] == {"value": ["plays é.txt", "b"], "source": "command line"}
    back = Resolved.from_dict(Sample, document, str(path))
    assert back.settings() == example().settings()
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    write_config(path, example(), "pretrain")
    before = path.read_bytes()

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_config(path, example().derive("max_steps", 1, "other"), "pretrain")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": 99, "gptloom": "7.0"}, r"newer gptloom \(7\.0\)"),
        ({"version": None}, "newer"),
        ({"options": None}, "no options"),
        ({"options": {"lr": {"value": 1, "source": "x", "colour": 2}}}, "value, source and rule"),
    ],
)
def test_configurations_from_elsewhere_are_refused(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = tmp_path / "config.yaml"
    document = {**example().as_dict("pretrain"), **change}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        read_config(path)


def test_a_stored_option_that_no_longer_exists_is_named_with_its_file() -> None:
    document = example().as_dict("pretrain")
    document["options"]["max_stepz"] = {"value": 1, "source": "default"}
    with pytest.raises(UserError, match=r"runs/x/config.yaml: there is no option max_stepz"):
        Resolved.from_dict(Sample, document, "runs/x/config.yaml")


def test_explain_one_key_as_either_spelling() -> None:
    document = example().as_dict("pretrain")
    expected = {"max_steps": Setting(2000, "derived", "10 minutes at 3.3 steps/s: here")}
    assert explain(document, "c", "max_steps") == explain(document, "c", "--max-steps") == expected
    with pytest.raises(UserError, match="max_steps"):
        explain(document, "c", "max_stepz")


def test_a_folder_without_a_configuration_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        read_config(tmp_path / "config.yaml")
