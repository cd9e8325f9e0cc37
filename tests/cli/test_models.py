"""``gptloom models``: presets beside their papers, to the last digit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gptloom
from gptloom.cli.main import main
from gptloom.config.model import FAMILIES, ModelConfig, family_presets, preset, preset_tokenizer, presets
from gptloom.config.papers import papers
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.recipes import load_recipe, resolve_with_recipe
from gptloom.config.run_folder import LINEAGE_FILE
from gptloom.model.counting import count_parameters
from gptloom.model.layouts import layout_for
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer

# Published counts, or by the formula 12 L d^2 + 13 L d + (V + T) d + 2 d of GPT-2 and GPT-3.
PARAMETERS = {
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-small": 125_226_240,
    "gpt3-medium": 355_871_744,
    "gpt3-large": 760_300_032,
    "gpt3-xl": 1_315_723_264,
    "gpt3-2.7b": 2_651_553_280,
    "gpt3-6.7b": 6_658_404_352,
    "gpt3-13b": 12_853_386_240,
    "gpt3-175b": 174_604_259_328,
    "neox-20b": 20_554_567_680,
    "bert-base": 110_106_428,
    "bert-large": 336_226_108,
}
WITH_POOLER_ALONE = {  # as transformers' BertModel counts
    "bert-tiny": 4_385_920,
    "bert-mini": 11_170_560,
    "bert-small": 28_763_648,
    "bert-medium": 41_373_184,
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What ``gptloom ARGUMENTS`` prints."""

    def printed(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    return printed


def config_of(name: str, **changed: Any) -> ModelConfig:
    return ModelConfig(**{**preset(name), **changed})


# ---- the presets -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in the cache of this machine's user is not seen."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_parameters_to_the_last_digit() -> None:
    assert {name: count_parameters(config_of(name)).total for name in PARAMETERS} == PARAMETERS
    for name in family_presets("gpt3"):
        assert count_parameters(config_of(f"{name}-dense")).total == PARAMETERS[name]
    without = {"masked_head": False, "pair_head": False}
    counted = {name: count_parameters(config_of(name, **without)).total for name in WITH_POOLER_ALONE}
    assert counted == WITH_POOLER_ALONE
    assert count_parameters(config_of("bert-base", **without, pooler=False)).total == 108_891_648
    assert count_parameters(config_of("bert-large", **without, pooler=False)).total == 334_092_288
    assert count_parameters(config_of("bert-base", **without, vocab_size=28_996)).total == 108_310_272
    assert count_parameters(config_of("neox-20b")).non_embedding == 19_934_859_264


@pytest.mark.parametrize("name", presets())
def test_the_model_itself_has_as_many(name: str) -> None:
    with torch.device("meta"):
        model = Transformer(config_of(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(config_of(name)).total


def test_the_families_are_what_their_papers_say() -> None:
    gpt1, gpt3, dense, neox, bert = map(config_of, ("gpt1", "gpt3-xl", "gpt3-xl-dense", "neox-20b", "bert-base"))
    assert (gpt1.norm_place, gpt1.activation, gpt1.dropout, gpt1.norm_eps) == ("post", "gelu_tanh", 0.1, 1e-5)
    assert [gpt3.window_of(layer) for layer in range(4)] == [None, 256, None, 256]
    assert {dense.window_of(layer) for layer in range(24)} == {None}
    assert (
        (gpt3.context, gpt3.n_head, gpt3.head_dim) == (dense.context, dense.n_head, dense.head_dim) == (2048, 16, 128)
    )
    assert (neox.parallel_residual, neox.rotary_dim, neox.head_dim, neox.tied_head) == (True, 24, 96, False)
    assert (bert.mask, bert.activation, bert.norm_eps, bert.segments) == ("bidirectional", "gelu", 1e-12, 2)
    assert bert.masked_head and bert.pooler and bert.pair_head and bert.embedding_norm


@pytest.mark.parametrize("name", presets())
def test_every_preset_has_a_folder_that_holds_it(name: str) -> None:
    assert layout_for(config_of(name)).unfit(config_of(name)) == []


def test_only_banded_gpt3s_are_of_a_layout_of_their_own() -> None:
    assert {preset(f"{name}-dense")["family"] for name in family_presets("gpt3")} == {"gpt2"}
    assert {preset(name)["family"] for name in family_presets("gpt3")} == {"gpt3"}
    assert [preset_tokenizer(name) for name in ("gpt1", "gpt3-xl-dense", "bert-tiny", "small", "neox-20b")] == [
        *("gpt1", "gpt2", "bert", None, None)
    ]


# ---- the papers ------------------------------------------------------------------------------------------------------


def test_what_is_otherwise_than_printed_is_explained() -> None:
    """Every number of a paper is ours, or close to a rounded one, or has its reason."""
    units = {"M": 1e6, "B": 1e9}
    for name in (name for name in presets() if name.split("-")[0] not in ("modern", "fast")):
        for row in gptloom.models_show(name).compared:
            if row.why is not None:
                continue
            if " x " in row.paper:
                first, second = row.paper.split(" x ")
                assert int(first) * int(second) == int(row.here.replace(",", "")), (name, row)
                continue
            if row.quantity == "rotary_dim":
                continue  # a share there, dimensions here
            figures = [text.replace(",", "") for text in (row.paper, row.here)]
            paper, here = (float(text.rstrip("MB")) * units.get(text[-1], 1) for text in figures)
            rounded = row.quantity in ("parameters", "counted", "flops", "pf_days", "batch_tokens")
            assert here == pytest.approx(paper, rel=0.05 if rounded else 1e-9), (name, row)


def test_table_d1_comes_out() -> None:
    """6 N D floating-point operations, and 8.64e19 of them a day: Brown et al. 2020, table D.1, to three figures."""
    for name in family_presets("gpt3"):
        compared = {row.quantity: row for row in gptloom.models_show(name).compared}
        for quantity in ("flops", "pf_days"):
            ours, printed = (
                float(text.replace(",", "")) for text in (compared[quantity].here, compared[quantity].paper)
            )
            assert ours == pytest.approx(printed, rel=5e-3)


def test_the_misprints_are_repaired_and_said_so() -> None:
    xl = {row.quantity: row for row in gptloom.models_show("gpt3-xl").compared}
    assert (xl["n_head"].paper, xl["n_head"].here) == ("24", "16") and "misprint" in str(xl["n_head"].why)
    wide = {row.quantity: row for row in gptloom.models_show("gpt3-13b-dense").compared}
    assert (wide["d_model"].paper, wide["d_model"].here) == ("5140", "5,120") and "misprint" in str(wide["d_model"].why)
    assert count_parameters(config_of("gpt3-13b", d_model=5140, head_dim=128)).total > 12.9e9


def test_papers_name_presets_and_their_recipes_train_them() -> None:
    assert set(papers()) == set(FAMILIES)
    for family, paper in papers().items():
        assert set(paper.models) <= set(presets())
        assert all(name in paper.models for name in family_presets(family)) or paper.year is None
        assert {*paper.sources} == {*paper.quantities}
        if paper.recipe is not None:
            for name in paper.models:
                given = {"recipe": paper.recipe, "model": name, "data": "a"}
                assert resolve_with_recipe(PretrainOptions, given, "python").options.model == name
            assert load_recipe(paper.recipe).options["model"] in paper.models


# ---- printed ---------------------------------------------------------------------------------------------------------


def test_all_is_in_the_document(run: Callable[..., str]) -> None:
    by_name = {row["name"]: row for row in json.loads(run("models", "--json"))}
    assert list(by_name) == list(presets())
    gpt2 = by_name["gpt2"]
    assert (gpt2["parameters"], gpt2["disk_bytes"], gpt2["training_bytes"]) == (124_439_808, 497_759_232, 1_991_036_928)
    assert gpt2["serving_bytes"] == 2 * 124_439_808 + 1024 * 2 * 12 * 768 * 2
    assert by_name["bert-base"]["serving_bytes"] == 2 * 110_106_428  # no cache
    known = ("year", "company", "training_data", "training_tokens", "applications")
    assert [by_name["gpt3-xl"][field] for field in known[:2]] == [2020, "OpenAI"]
    assert by_name["gpt3-xl"]["training_tokens"] == 300 * 10**9
    assert all(by_name["neox-20b"][field] for field in known)


def test_the_list_fits_a_narrow_terminal_and_uses_a_wide_one(
    run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    narrow = run("models")
    assert max(map(len, narrow.splitlines())) <= 80
    assert all(f"\n{name} " in narrow for name in presets() if not name.endswith("-dense"))
    for told in ("OpenAI · 2018", "Google · 2018", "EleutherAI", "WebText", "300B", "gpt3-small-dense"):
        assert told in narrow
    monkeypatch.setenv("COLUMNS", "120")
    assert "174,604,259,328" in run("models") and "174,604,259,328" not in narrow


def test_one_preset_is_shown_beside_its_paper(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("models", "show", "gpt3-175b")
    assert "174,604,259,328" in shown and "3.14e23" in shown and "table D.1" in shown and "2.8 TB" in shown
    assert max(map(len, shown.splitlines())) <= 80
    own = json.loads(run("models", "show", "small", "--json"))
    assert (own["summary"]["name"], own["config"]["d_model"], own["compared"]) == ("small", 512, [])
    printed = run("models", "show", "small")
    assert all(f"\n{field} " in printed for field in ModelConfig.model_fields)


@pytest.mark.parametrize(
    ("name", "expected"), [("smal", "small"), ("fast", "fast-nano"), ("gpt3", "gpt3-175b"), ("gpt3-lx", "gpt3-xl")]
)
def test_what_was_meant_is_named(name: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("models", "show", name)) == 2
    assert expected in capsys.readouterr().err


def test_what_was_imported_has_rows(run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of("gpt2", n_layer=1, d_model=16, n_head=2, vocab_size=50, context=8)
    for name in ("mine", "theirs", "harmed"):
        save_model(tmp_path / "models" / name, Transformer.initialised(config, seed=0).state_dict(), config)
    card = tmp_path / "models" / "theirs" / LINEAGE_FILE
    told = json.loads(card.read_text(encoding="utf-8"))
    told["lineage"] = {"stage": "import", "source": {"name": "org/theirs"}}
    card.write_text(json.dumps(told), encoding="utf-8")
    (tmp_path / "models" / "harmed" / LINEAGE_FILE).write_text("{", encoding="utf-8")
    rows = json.loads(run("models", "--json"))
    found = [row for row in rows if row["imported_from"]]
    assert [(row["name"], row["imported_from"], row["d_model"]) for row in found] == [
        ("models/theirs", "org/theirs", 16)
    ]
    assert "models/theirs came from org/theirs" in run("models")
    shown = run("models", "show", "models/theirs")
    assert "org/theirs" in shown and f"{count_parameters(config).total:,} parameters" in shown
    assert "n_layer" in run("models", "show", "hf:models/mine")


def test_what_was_fetched_from_the_hub_has_rows(run: Callable[..., str], tmp_path: Path) -> None:
    config = config_of("gpt2", n_layer=1, d_model=16, n_head=2, vocab_size=50, context=8)
    snapshots = tmp_path / "hub" / "models--org--theirs" / "snapshots"
    save_model(snapshots / "abc", Transformer.initialised(config, seed=0).state_dict(), config)
    strange = tmp_path / "hub" / "models--org--strange" / "snapshots" / "abc"
    strange.mkdir(parents=True)
    (tmp_path / "hub" / "models--org--no-weights" / "snapshots" / "abc").mkdir(parents=True)
    shutil.copy(snapshots / "abc" / "config.json", tmp_path / "hub" / "models--org--no-weights" / "snapshots" / "abc")
    (strange / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    rows = json.loads(run("models", "--json"))
    assert [row["name"] for row in rows if row["name"].startswith("hf:")] == ["hf:org/theirs"]
