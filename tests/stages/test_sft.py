"""``gptloom.sft`` from rows to a folder that answers: formats, templates, methods, figures, refusals, going on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.config.resolve import resolve
from gptloom.config.sft import SftOptions
from gptloom.data.batch import Batch
from gptloom.data.conversation_batches import ConversationBatches
from gptloom.data.render import Renderer
from gptloom.evaluation.perplexity import TokensInMemory
from gptloom.model.store import load_model, read_chat, read_lineage, save_model
from gptloom.model.transformer import Transformer
from gptloom.stages.sft.data import read_sft_data, share_weights
from gptloom.stages.sft.plan import SftPlan, plan_run
from gptloom.stages.sft.replay import JoinedTokens
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.train import train_tokenizer

QUESTIONS = [f"what is {a} {b}" for a in ("king", "queen", "river", "boat") for b in ("old", "young", "green", "wood")]


def rows(n: int = 16, begin: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": QUESTIONS[begin + i], "completion": QUESTIONS[begin + i].split()[-1]} for i in range(n)]


def write(path: Path, values: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in values), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of Qwen3's layout, with room for Alpaca's words letter by letter."""
    folder = tmp_path_factory.mktemp("bases") / "base"
    tokenizer = train_tokenizer("bpe", ["what is the old young green king queen river boat of wood yes no. " * 9], 290)
    shape = {"n_layer": 2, "d_model": 32, "n_head": 4, "n_kv_head": 4, "head_dim": 8, "d_ff": 48, "context": 320}
    config = ModelConfig(**{**preset("modern-nano"), **shape, "vocab_size": tokenizer.vocab_size})
    model = Transformer.initialised(config, seed=1)
    with torch.no_grad():  # output projections begin at zero, as nothing trained has them
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    save_model(folder, model, config, tokenizer=tokenizer)
    return folder


@pytest.fixture
def sft(base: Path, tmp_path: Path) -> Callable[..., Any]:
    """``gptloom.sft`` of a tiny decoder, 4 steps of 4 examples into ``tmp_path/run``."""

    def run(**given: Any) -> Any:
        if "data" not in given:
            given["data"] = [write(tmp_path / "rows.jsonl", rows())]
        options: dict[str, Any] = {
            "base": str(base),
            "out": str(tmp_path / "run"),
            "quiet": True,
            "precision": "fp32",
            "threads": torch.get_num_threads(),
            "log": ["none"],
            "batch_size": 4,
            "lr": 3e-3,
            "max_steps": 4,
            "smoke_prompts": 2,
        }
        options |= given
        return gptloom.sft(options.pop("base"), **options)

    return run


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    return str(caught.value)


def test_a_base_becomes_a_model_that_answers(sft: Callable[..., Any]) -> None:
    run = sft()
    assert run.state.state == "finished" and run.state.step == 4
    assert {"before", "after", "cost"} <= run.figures.keys()
    assert run.figures["after"]["losses"]["loss"] < run.figures["before"]["losses"]["loss"]
    trained, held = (run.figures["after"][name]["samples"] for name in ("smoke", "smoke_held_out"))
    assert len(trained) == 2 and 1 <= len(held) <= 2
    assert not {sample["prompt"] for sample in trained} & {sample["prompt"] for sample in held}
    chat = read_chat(run.path / "final")
    assert chat is not None and chat.template == "gptloom"
    assert read_lineage(run.path / "final")["lineage"]["stage"] == "sft"
    answer = run.model.reply([{"role": "user", "content": QUESTIONS[0]}], max_tokens=4, temperature=0)
    assert answer.finish_reason in ("stop", "length")


@pytest.mark.slow
def test_it_learns_answers_by_heart_and_ends_them(sft: Callable[..., Any]) -> None:
    run = sft(max_steps=150, batch_size=8, lr=1e-2, valid_share=0.1)
    good = 0
    for question in QUESTIONS:
        answer = run.model.reply([{"role": "user", "content": question}], max_tokens=8, temperature=0)
        good += answer.text == question.split()[-1] and answer.finish_reason == "stop"
    assert good >= 12
    assert run.figures["after"]["smoke"]["stopping"] == 1.0


def test_the_folder_renders_as_the_training_did(sft: Callable[..., Any], tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", rows())
    run = sft(data=[data])
    given = {"base": str(run.path), "data": [data], "out": str(tmp_path / "again"), "dry_run": True}
    plan = plan_run(resolve(SftOptions, given), read_sft_data(resolve(SftOptions, given).options))
    assert plan.body.format == read_chat(run.path / "final")
    tokenizer = load_tokenizer(run.path / "final")
    renderer = Renderer(tokenizer, plan.body.format)
    conversation = plan.trained[0]
    ids = renderer.prompt(conversation.prompt)
    example = renderer.examples([conversation])[0]
    assert example.ids[: len(ids)].tolist() == ids and example.turns[0][0] == len(ids)


@pytest.mark.parametrize("method", ["lora", "last"])
def test_frozen_embeddings_have_roles_written_out(sft: Callable[..., Any], method: str) -> None:
    run = sft(method=method, **({"layers": 1} if method == "last" else {}))
    chat = read_chat(run.path / "final")
    assert chat is not None and chat.template == "alpaca"
    assert run.figures["cost"]["trained_parameters"] < sum(
        p.numel() for p in load_model(run.path / "final")[0].parameters()
    )
    if method == "lora":
        assert read_chat(run.path / "adapter") == chat


def test_new_tokens_are_refused_where_they_could_not_learn(sft: Callable[..., Any]) -> None:
    said = refusal(lambda: sft(method="lora", template="chatml"))
    assert "<|im_start|>" in said and "--template alpaca" in said


def test_adapters_that_nothing_could_reach_are_refused(sft: Callable[..., Any], base: Path, tmp_path: Path) -> None:
    model, config = load_model(base)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.out.weight.zero_()
    save_model(tmp_path / "fresh", model, config, tokenizer=load_tokenizer(base))
    assert "no gradient reaches" in refusal(lambda: sft(base=str(tmp_path / "fresh"), method="lora"))


def test_prepared_files_are_concatenated(sft: Callable[..., Any], tmp_path: Path) -> None:
    made = [{"prompt": row["prompt"] + "\n\n###\n\n", "completion": f" {row['completion']} END"} for row in rows()]
    run = sft(data=[write(tmp_path / "made_prepared.jsonl", made)])
    chat = read_chat(run.path / "final")
    assert chat is not None
    assert (chat.template, chat.separator, chat.stop) == ("plain", "\n\n###\n\n", " END")


def test_another_template_than_the_base_knows_is_refused(sft: Callable[..., Any], tmp_path: Path) -> None:
    run = sft()
    said = refusal(lambda: sft(base=str(run.path), template="alpaca", out=str(tmp_path / "other")))
    assert "was taught gptloom" in said and "--yes" in said
    again = sft(base=str(run.path), out=str(tmp_path / "third"))
    assert read_chat(again.path / "final") == read_chat(run.path / "final")


def test_packed_and_padded_learn_the_same(sft: Callable[..., Any], tmp_path: Path) -> None:
    runs = [sft(packing=packing, out=str(tmp_path / str(packing)), smoke_prompts=0) for packing in (True, False)]
    one, other = ([event["loss"] for event in run.events if event["type"] == "train"] for run in runs)
    assert one and one == pytest.approx(other, rel=1e-5)


def test_going_on_is_exact(sft: Callable[..., Any], tmp_path: Path) -> None:
    whole = sft(out=str(tmp_path / "whole"), save_every=2, eval_every=2, smoke_prompts=0)

    def stop(event: dict[str, Any], run: Any) -> None:
        if event["type"] == "train" and event["step"] == 2:
            (run.path / "stop").touch()

    broken = sft(
        out=str(tmp_path / "broken"), save_every=2, eval_every=2, log_every=1, smoke_prompts=0, callbacks=[stop]
    )
    assert broken.state.state == "paused"
    gptloom.resume(str(broken.path), quiet=True)
    states = [load_model(path / "final")[0].state_dict() for path in (whole.path, broken.path)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert broken.figures["before"]["losses"] == whole.figures["before"]["losses"]


ROLES = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
ASKED = "{% if add_generation_prompt %}assistant: {% endif %}"


@pytest.fixture
def paused(sft: Callable[..., Any]) -> Callable[..., Path]:
    """The folder of a run that was stopped behind a checkpoint."""

    def stop(event: dict[str, Any], run: Any) -> None:
        if event["type"] == "train" and event["step"] == 2:
            (run.path / "stop").touch()

    def run(**given: Any) -> Path:
        run = sft(save_every=2, eval_every=2, smoke_prompts=0, callbacks=[stop], **given)
        assert run.state.state == "paused"
        return Path(run.path)

    return run


def test_a_run_goes_on_with_its_own_template(paused: Callable[..., Path], tmp_path: Path) -> None:
    mine = tmp_path / "mine.jinja"
    mine.write_text(ROLES + ASKED, encoding="utf-8")
    run = paused(template=str(mine))
    mine.write_text((ROLES + ASKED).replace(": ", " says "), encoding="utf-8")
    changed = f"template {mine} has changed since the run began"
    for act in (lambda: gptloom.resume(str(run), quiet=True), lambda: gptloom.data_show(run, step=3)):
        said = refusal(act)
        assert changed in said and "put the old ones back" in said
    mine.write_text(ROLES + ASKED, encoding="utf-8")
    assert gptloom.resume(str(run), quiet=True).state.state == "finished"


def test_a_run_goes_on_with_the_text_that_it_read_again(paused: Callable[..., Path], tmp_path: Path) -> None:
    text = tmp_path / "base.txt"
    text.write_text("the old king and his young queen went down to the river. " * 60, encoding="utf-8")
    run = paused(replay=0.5, replay_data=[str(text)])
    text.write_text("the old king and his young queen went down to the garden. " * 60, encoding="utf-8")
    assert f"the text of {text} has changed since the run began" in refusal(lambda: gptloom.resume(str(run)))


def test_a_run_goes_on_with_its_adapter(sft: Callable[..., Any], paused: Callable[..., Path], tmp_path: Path) -> None:
    first = sft(method="lora", max_steps=1, smoke_prompts=0, out=str(tmp_path / "first"))
    run = paused(method="lora", adapter=str(first.path / "adapter"))
    sft(method="lora", max_steps=1, smoke_prompts=0, seed=2, out=str(tmp_path / "first"), overwrite=True)
    said = refusal(lambda: gptloom.resume(str(run)))
    assert f"the adapter {first.path / 'adapter'} has changed since the run began" in said


def test_a_run_of_before_more_was_noted_goes_on(paused: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(SftPlan, "made_of", property(lambda plan: {"data": plan.data_hash, "base": plan.body.base_hash}))
        run = paused()
    assert gptloom.resume(str(run), quiet=True).state.state == "finished"


def test_a_step_is_shown_as_it_was_trained_on(
    sft: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batch, trained_on = ConversationBatches.batch, []

    def recorded(self: ConversationBatches, step: int, excluded: Sequence[int] = ()) -> Batch:
        made = batch(self, step, excluded)
        if step == 2:
            trained_on.append(made.ids)
        return made

    monkeypatch.setattr(ConversationBatches, "batch", recorded)
    run = sft(packing=False, smoke_prompts=0)
    shown = gptloom.data_show(run.path, step=3, rows=3)
    real = [[token.id for token in one.rows[0]] for one in shown]
    assert real == [ids[: len(own)].tolist() for ids, own in zip(trained_on[-1], real, strict=False)] and len(real) == 3
    assert main(["data", "show", str(run.path), "--step", "3", "--rows", "1"]) == 0
    said = capsys.readouterr().out
    assert f"--- {shown[0].where} (" in said and "answer[" in said and "] end[" in said
    write(tmp_path / "rows.jsonl", rows(15))
    with pytest.raises(UserError, match="the rows have changed"):
        gptloom.data_show(run.path, step=3)


def test_files_are_weighed_and_held_out_apart(base: Path, tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", rows(8)), write(tmp_path / "b.jsonl", rows(4, begin=8))
    given = {"base": str(base), "data": [f"{a}@0.5", b]}
    data = read_sft_data(resolve(SftOptions, given).options)
    assert [(source.name, source.weight) for source in data.sources] == [("a", 0.5), ("b", 1.0)]
    assert set(data.valid) == {"a", "b"} and [len(held) for held in data.valid.values()] == [1, 1]
    shares = [weight * size for weight, size in zip(share_weights([8, 4], [1, 1], 1e6), [8, 4], strict=True)]
    assert shares[0] == pytest.approx(shares[1], rel=1e-3) and sum(shares) == pytest.approx(12)
    assert share_weights([8, 4], [0.5, 1.0], None) == [0.5, 1.0]


def test_a_held_out_prompt_that_is_trained_on_is_refused(sft: Callable[..., Any], tmp_path: Path) -> None:
    data, valid = write(tmp_path / "a.jsonl", rows(8)), write(tmp_path / "v.jsonl", rows(3, begin=6))
    said = refusal(lambda: sft(data=[data], valid=[valid]))
    assert "2 held-out prompts also in --data" in said and "v.jsonl:1" in said


def test_every_task_has_its_loss(sft: Callable[..., Any], tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", rows(8)), write(tmp_path / "b.jsonl", rows(8, begin=8))
    run = sft(data=[a, b])
    assert {"loss", "loss/a", "loss/b"} == run.figures["after"]["losses"].keys()


def test_pretraining_text_is_read_again_and_measured(sft: Callable[..., Any], tmp_path: Path) -> None:
    text = tmp_path / "base.txt"
    text.write_text("the old king and his young queen went down to the river. " * 60, encoding="utf-8")
    run = sft(replay=0.5, replay_data=[str(text)], max_steps=20)
    assert run.figures["before"]["base_bits_per_byte"] > run.figures["after"]["base_bits_per_byte"]
    said = refusal(lambda: sft(replay=0.1, out=str(tmp_path / "none")))
    assert "not known here" in said and "--replay-data" in said


def test_nothing_to_learn_is_refused(sft: Callable[..., Any], tmp_path: Path) -> None:
    silent = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "yes", "weight": 0}]}
        for q in QUESTIONS
    ]
    said = refusal(lambda: sft(data=[write(tmp_path / "silent.jsonl", silent)]))
    assert "weight" in said
    assert not (tmp_path / "run").exists()


def test_examples_that_are_too_long_are_left_out_only_when_few_or_asked_for(
    sft: Callable[..., Any], tmp_path: Path
) -> None:
    long = [{**row, "prompt": row["prompt"] + " river" * 400} if i % 2 else row for i, row in enumerate(rows())]
    data = write(tmp_path / "long.jsonl", long)
    said = refusal(lambda: sft(data=[data]))
    assert "longer than 320 tokens" in said and "--max-length 320" in said
    assert sft(data=[data], max_length=320, valid_share=0.4).state.state == "finished"


def test_bases_that_cannot_answer_are_refused(sft: Callable[..., Any], bodies: dict[str, Path]) -> None:
    assert "both sides" in refusal(lambda: sft(base=str(bodies["encoder"])))
    assert "is a preset" in refusal(lambda: sft(base="modern-nano"))


def test_options_that_do_nothing_are_refused_together(sft: Callable[..., Any], tmp_path: Path) -> None:
    said = refusal(lambda: sft(rank=4, layers=1, mix_temperature=2.0))
    assert all(name in said for name in ("--rank", "--layers", "--mix-temperature"))
    assert not (tmp_path / "run").exists()


def turns(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


def test_files_of_one_name_stay_apart(base: Path, tmp_path: Path) -> None:
    a, b = write(tmp_path / "held.en.jsonl", rows(2)), write(tmp_path / "held.de.jsonl", rows(3, begin=2))
    data = write(tmp_path / "a.jsonl", rows(8, begin=8))
    found = read_sft_data(resolve(SftOptions, {"base": str(base), "data": [data], "valid": [a, b]}).options)
    assert {name: len(held) for name, held in found.valid.items()} == {a: 2, b: 3}


def test_what_is_held_out_is_nowhere_the_beginning_of_what_is_trained_on(base: Path, tmp_path: Path) -> None:
    long = [turns(f"a{i}", "yes", "b", f"c{i}") for i in range(20)]
    short = [turns(f"a{i}", "yes") for i in range(20)]
    both = write(tmp_path / "both.jsonl", [*long, *short])
    data = read_sft_data(resolve(SftOptions, {"base": str(base), "data": [both], "valid_share": 0.3}).options)
    sides = [{one.messages[0].content for one in side} for side in (data.train, next(iter(data.valid.values())))]
    assert sides[1] and not sides[0] & sides[1]
    for trained, held in ((long, short), (short, long)):
        given = {"data": [write(tmp_path / "t.jsonl", trained)], "valid": [write(tmp_path / "v.jsonl", held)]}
        said = refusal(lambda given=given: read_sft_data(resolve(SftOptions, {"base": str(base), **given}).options))
        assert "20 held-out prompts also in --data" in said


def test_plain_text_that_is_held_out_is_not_trained_on(base: Path, tmp_path: Path) -> None:
    data, valid = (write(tmp_path / f"{name}.jsonl", [{"text": f"line {i}"} for i in range(6)]) for name in "ab")
    options = resolve(SftOptions, {"base": str(base), "data": [data], "valid": [valid]}).options
    assert "6 held-out prompts also in --data" in refusal(lambda: read_sft_data(options))


def test_a_plain_base_is_not_taught_another_stop(sft: Callable[..., Any], tmp_path: Path) -> None:
    def prepared(stop: str) -> str:
        made = [{"prompt": f"{row['prompt']} ->", "completion": f" {row['completion']}{stop}"} for row in rows()]
        return write(tmp_path / f"{len(stop)}_prepared.jsonl", made)

    run = sft(data=[prepared("\n")])
    said = refusal(lambda: sft(base=str(run.path), data=[prepared(" END")], out=str(tmp_path / "other")))
    assert "' END'" in said and "unlearn" in said


def test_letters_that_the_tokenizer_does_not_know_are_told(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "letters"
    tokenizer = train_tokenizer("chars", ["what is the old young green king queen river boat of wood"], None)
    _, config = load_model(base)
    config = config.model_copy(update={"vocab_size": tokenizer.vocab_size})
    save_model(folder, Transformer.initialised(config, seed=1), config, tokenizer=tokenizer)
    data = write(tmp_path / "strange.jsonl", [{"prompt": f"what {i}", "completion": "ÄÖÜ"} for i in range(8)])
    gptloom.sft(str(folder), data=[data], template="plain", dry_run=True, threads=torch.get_num_threads())
    assert "learned tokens are <|unk|>" in capsys.readouterr().err


def test_all_parts_of_a_mixture_are_read_again() -> None:
    parts = [TokensInMemory(np.arange(10)), TokensInMemory(np.arange(100, 104)), TokensInMemory(np.arange(200, 220))]
    joined = JoinedTokens(parts)
    assert joined.n_tokens == 34
    assert joined.gather(np.array([0, 8, 10, 13, 14, 33]), 3).tolist() == [
        [0, 1, 2],
        [7, 8, 9],
        [100, 101, 102],
        [101, 102, 103],
        [200, 201, 202],
        [217, 218, 219],
    ]
