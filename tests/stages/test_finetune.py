"""``gptloom.finetune`` from rows to a folder that answers: tasks, methods, rates, the best step, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import gptloom
from gptloom.config.errors import UserError
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import resolve
from gptloom.data.example import Example
from gptloom.data.tables import read_table
from gptloom.data.task_examples import for_prediction
from gptloom.evaluation.task_metrics import evaluate_task
from gptloom.generation.classifier import score_batches
from gptloom.model.store import load_model
from gptloom.model.task_head import task_scores
from gptloom.observe.terminal import quietly
from gptloom.stages.finetune import validated
from gptloom.stages.finetune.data import check_classes, hold_out, read_task_data
from gptloom.stages.finetune.learning import class_weights
from gptloom.stages.finetune.plan import TaskPlan, plan_run
from gptloom.stages.tuning.plan import Validated

Tune = Callable[..., Any]
TABLE = Callable[..., Path]
KINDS = ("classify", "entail", "similar", "scored", "regress", "choice", "tokens", "span")


def final_weights(run: Any) -> dict[str, Tensor]:
    model, _ = load_model(run.path / "final")
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(act: Callable[[], Any]) -> list[str]:
    with pytest.raises(UserError) as caught:
        act()
    return [problem.what for problem in caught.value.problems]


def assert_figures_are_the_folders(run: Any, valid: Path) -> None:
    """The rows read again by what the folder says, answered by it and measured: the figures of the training."""
    classifier = gptloom.load(str(run.path))
    examples = for_prediction(read_table(str(valid)), classifier.task)
    report = evaluate_task(classifier.task, examples, classifier.predict(examples))
    assert run.figures["valid"]["metrics"] == report.metrics
    assert report.n == run.figures["valid"]["n"] == 12
    best = [event for event in run.events if event["type"] == "evaluate" and event["step"] == run.state.best_step]
    # A score is stored with its mean in the head: of answers that hardly differ, fp32 then has fewer digits.
    close = 0.02 if classifier.task.is_score else 1e-6
    assert best[-1]["metrics"] == pytest.approx(report.metrics, rel=1e-4, abs=close)


# ---- every task ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [kind if kind in ("scored", "choice", "tokens") else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_every_task_is_learned_and_answered(tune: Tune, table: TABLE, kind: str) -> None:
    more = {"most": 5} if kind == "choice" else {}
    valid = table(kind, 12, 1, **more)
    run = tune("decoder", kind, data=[str(table(kind, **more))], valid=[str(valid)], max_steps=3)
    assert run.state.state == "finished" and run.state.step == 3
    assert_figures_are_the_folders(run, valid)
    losses = [event["losses"] for event in run.events if event["type"] == "train"]
    assert losses and all(set(terms) == {"task", "next_word"} for terms in losses)


@pytest.mark.slow
@pytest.mark.parametrize("body", ["decoder", "encoder"])
@pytest.mark.parametrize("method", ["feature", "last", "full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_task_by_every_method(tune: Tune, table: TABLE, kind: str, method: str, body: str) -> None:
    budget = {} if method == "feature" and kind != "span" else {"max_steps": 4}
    valid = table(kind, 12, 1)
    run = tune(body, kind, method=method, data=[str(table(kind))], valid=[str(valid)], **budget)
    assert run.state.state == "finished"
    assert_figures_are_the_folders(run, valid)


def test_features_learn_what_a_word_says(tune: Tune) -> None:
    run = tune(method="feature")
    assert run.figures["valid"]["metrics"]["accuracy"] > 0.9 > run.figures["valid"]["baseline"]["accuracy"]
    answers = run.model.classify(["the lamp and the lamp went down", "bread for the bread king"])
    assert [answer.answer for answer in answers] == ["light", "food"]


# ---- what is trained -------------------------------------------------------------------------------------------------


def moved(run: Any, base: Path) -> set[str]:
    """The parameters that differ from the base's, of those that it has."""
    before = dict(load_model(base)[0].named_parameters())
    after = final_weights(run)
    return {name for name in before if not torch.equal(before[name], after[name][: len(before[name])])}


def test_patterns_name_what_is_trained(tune: Tune, bodies: dict[str, Path]) -> None:
    run = tune(train=["blocks.1.mlp_norm*", "*.up.bias,head"], max_steps=1, warmup=0)
    expected = {
        name for name in final_weights(run) if name.startswith("blocks.1.mlp_norm") or name.endswith(".up.bias")
    }
    assert moved(run, bodies["decoder"]) == expected
    assert run.model.task.tokens.delimiter[0] < 290, "new tokens would stay random: the embedding is frozen"
    assert tune(train=["head,embedding"], overwrite=True, dry_run=True).sentence.endswith("embedding, task_head")
    assert refusal(lambda: tune(train=["blocks.9", "nomr"], overwrite=True)) == [
        "--train blocks.9: no parameter is called so",
        "--train nomr: no parameter is called so",
    ]


def test_last_trains_the_last_blocks_and_the_norm(tune: Tune, bodies: dict[str, Path]) -> None:
    run = tune(method="last", layers=1, max_steps=1, warmup=0)
    places = {
        name.rpartition(".")[0].split(".")[0] + name[6:8] * name.startswith("blocks")
        for name in moved(run, bodies["decoder"])
    }
    assert places == {"blocks.1", "norm"}


def test_layers_learn_slower_the_lower_they_are(tune: Tune) -> None:
    rates: dict[str, float] = {}

    def note(event: dict[str, Any], run: Any) -> None:
        if event["type"] == "start":
            names = {id(tensor): name for name, tensor in run.optimizer.trained.items()}
            for part in run.optimizer._parts:
                for group in part.param_groups:
                    rates.update({names[id(tensor)]: group["top_lr"] for tensor in group["params"]})

    tune(layer_decay=0.5, lr=8e-3, max_steps=1, callbacks=[note])
    assert rates["task_head.score.weight"] == rates["norm.weight"] == pytest.approx(8e-3)
    assert rates["blocks.1.attention.q.weight"] == pytest.approx(4e-3)
    assert rates["blocks.0.mlp.up.bias"] == pytest.approx(2e-3)
    assert rates["embedding.weight"] == rates["position_embedding.weight"] == pytest.approx(1e-3)


def plan_of(tune_options: dict[str, Any]) -> TaskPlan:
    options = resolve(FinetuneOptions, tune_options)
    with quietly(True):
        return plan_run(options, read_task_data(options.options))


def test_weights_of_classes_and_smoothing_are_in_the_loss(tune: Tune, table: TABLE, bodies: dict[str, Path]) -> None:
    """The loss of the first step, from the model as it began, by torch."""
    given: dict[str, Any] = {"data": [str(table("classify"))], "valid": [str(table("classify", 12, 1))], "lr": 3e-3}
    given |= {"class_weights": ["food=7", "water=0.5"], "label_smoothing": 0.2, "dropout": 0.0, "lm_weight": 0.0}
    run = tune(max_steps=1, micro_batch=3, **given)
    plan = plan_of({"base": str(bodies["decoder"]), "task": "classify", "batch_size": 8, **given})
    batch = plan.batches.batch(0)
    model: Any = plan.body.model
    with torch.no_grad():
        scores = task_scores(model, batch.ids, batch.padding_mask)
    weights = torch.tensor([{"food": 7.0, "light": 1.0, "water": 0.5}[label] for label in plan.data.labels])
    assert batch.labels is not None
    expected = F.cross_entropy(scores, batch.labels, weight=weights, label_smoothing=0.2)
    first = next(event for event in run.events if event["type"] == "train")
    assert first["losses"]["task"] == pytest.approx(float(expected), rel=1e-4)


def test_balanced_classes_count_alike(table: TABLE, bodies: dict[str, Path]) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    data = read_task_data(
        resolve(FinetuneOptions, {"base": "x", "task": "classify", "data": [str(table("classify", 40))]}).options
    )
    labels = [example.label for example in data.train]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    weights = class_weights(["balanced"], data, "classify")
    assert weights is not None and weights.tolist() == pytest.approx(expected.tolist())
    assert "stands alone" in refusal(lambda: class_weights(["balanced", "food=2"], data, "classify"))[0]
    wrong = refusal(lambda: class_weights(["foot=2", "food=0", "water=x"], data, "classify"))
    assert wrong == [
        "'foot=2': there is no such label",
        "'food=0': a weight is a number above 0",
        "'water=x': a weight is a number above 0",
    ]


# ---- the best step ---------------------------------------------------------------------------------------------------


def told(figures: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes each evaluation find the next (loss, accuracy)."""
    coming = iter(figures)

    def validated(plan: TaskPlan) -> Validated:
        loss, accuracy = next(coming)
        return Validated(loss, {"accuracy": accuracy}, accuracy)

    monkeypatch.setattr(TaskPlan, "validated", validated)


def test_the_best_step_is_kept_not_the_last(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    told([(1.6, 0.2), (1.5, 0.5), (1.4, 0.4), (1.7, 0.5), (1.2, 0.3), (1.1, 0.9)], monkeypatch)
    weights: dict[int, dict[str, Tensor]] = {}

    def note(event: dict[str, Any], run: Any) -> None:
        if event["type"] == "evaluate":
            tensors = run.optimizer.masters.tensors
            weights[event["step"]] = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    run = tune(max_steps=6, eval_every=1, patience=3, callbacks=[note])
    assert (run.state.best_step, run.state.best_value, run.state.step) == (2, 0.5, 5)
    assert run.state.state == "finished" and run.state.reason == "Patience asked to stop"
    assert same(final_weights(run), weights[2]) and not same(weights[2], weights[5])
    lineage = json.loads((run.path / "final" / "gptloom.json").read_text(encoding="utf-8"))["lineage"]
    assert lineage["step"] == 2 and lineage["stage"] == "finetune"
    assert lineage["metrics"] == {"valid_loss": 1.5, "accuracy": 0.5}


def test_of_equal_steps_the_one_of_lower_loss_is_kept(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    told([(0.9, 0.5), (0.7, 0.5), (0.8, 0.5), (0.1, 0.4)], monkeypatch)
    run = tune(max_steps=4, eval_every=1)
    assert (run.state.best_step, run.state.best_value, run.state.best_loss) == (2, 0.5, 0.7)


def test_scoring_leaves_the_mode_of_the_model_as_it_was(bodies: dict[str, Path], table: TABLE) -> None:
    """Also where a caller wants no more of the batches."""
    rows = {"data": [str(table("classify"))], "valid": [str(table("classify", 12, 1))]}
    plan = plan_of({"base": str(bodies["decoder"]), "task": "classify", **rows})
    plan.body.model.train()
    batches = score_batches(plan.body.model, plan.valid, 0, tokens=20)
    next(batches)
    assert not plan.body.model.training
    batches.close()
    assert plan.body.model.training


def test_weights_that_are_no_numbers_are_never_the_best(tune: Tune) -> None:
    def poison(event: dict[str, Any], run: Any) -> None:
        if event["type"] == "train" and event["step"] == 2:
            with torch.no_grad():
                run.optimizer.masters.tensors["norm.weight"].fill_(torch.nan)
            run.optimizer.masters.refresh()

    run = tune(max_steps=4, eval_every=1, callbacks=[poison])
    assert run.state.state == "finished" and run.state.best_step in (1, 2)
    assert [event["metrics"] for event in run.events if event["type"] == "evaluate"][2:] == [{}, {}]
    assert all(tensor.isfinite().all() for tensor in final_weights(run).values())
    assert refusal(lambda: tune("decoder", "regress", lr=1e12, clip=0, warmup=0, eval_every=2, overwrite=True)) == [
        "every evaluation met scores that are no numbers: there is no model to keep"
    ]


@pytest.mark.slow
def test_equal_seeds_are_equal_to_the_bit(tune: Tune, tmp_path: Path) -> None:
    one, again, other = (
        tune(max_steps=2, seed=seed, out=str(tmp_path / name))
        for seed, name in ((1, "one"), (1, "again"), (2, "other"))
    )
    assert same(final_weights(one), final_weights(again))
    assert not same(final_weights(one), final_weights(other))


@pytest.mark.parametrize("method", ["full", "feature"])
def test_a_score_comes_out_of_the_stored_head_itself(tune: Tune, method: str) -> None:
    run = tune("decoder", "regress", method=method, **({"max_steps": 2} if method == "full" else {}))
    task = run.model.task
    assert (task.score_mean, task.score_std) == (0.0, 1.0)
    answers = [prediction.answer for prediction in run.model.classify(["the rain", "the river and the king"])]
    if method == "feature":
        (report,) = [event["metrics"] for event in run.events if event["type"] == "evaluate"]
        assert run.figures["valid"]["metrics"] == pytest.approx(report, rel=1e-3)
        assert all(60 < answer < 170 for answer in answers)
        return
    assert all(100 < answer < 130 for answer in answers), "the head begins at the mean of the scores"
    config = json.loads(
        (run.path / "checkpoints" / "step-00000002" / "model" / "gptloom.json").read_text(encoding="utf-8")
    )
    assert config["task"]["score_std"] > 5, "in between, scores are learned on a scale of their own"


# ---- other doors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["decoder", pytest.param("encoder", marks=pytest.mark.slow)])
def test_transformers_answers_the_same_from_the_text_on(tune: Tune, body: str) -> None:
    import transformers

    run = tune(body, max_steps=3)
    folder = run.path / "final"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = ["the old king and the bread", "a boat", "rain, rain; LONDON lay waiting"]
    for text, ours in zip(texts, gptloom.load(str(run.path)).classify(texts), strict=True):
        with torch.no_grad():
            theirs = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        assert ours.probabilities is not None
        named = {model.config.id2label[index]: float(value) for index, value in enumerate(theirs)}
        assert named == pytest.approx(ours.probabilities, abs=1e-6)


@pytest.fixture
def roberta(bodies: dict[str, Path], tmp_path: Path) -> Path:
    """A body that only transformers has, with the tokenizer of the decoder."""
    import transformers

    shape: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 1}
    torch.manual_seed(0)
    transformers.RobertaModel(transformers.RobertaConfig(**shape)).save_pretrained(tmp_path / "roberta")
    for path in bodies["decoder"].glob("tokenizer*"):
        shutil.copy(path, tmp_path / "roberta")
    return tmp_path / "roberta"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_body_of_transformers_is_fine_tuned(tune: Tune, table: TABLE, roberta: Path, method: str) -> None:
    valid = table("classify", 12, 1)
    run = tune(str(roberta), data=[str(table("classify"))], valid=[str(valid)], method=method, max_steps=3)
    assert run.state.state == "finished"
    assert_figures_are_the_folders(run, valid)
    again = tune(str(run.path), method="last", layers=1, max_steps=2, out=str(run.path.with_name("further")))
    assert again.state.state == "finished"


@pytest.mark.slow
def test_a_fine_tuned_model_is_fine_tuned_further(tune: Tune, tmp_path: Path) -> None:
    """The tokens that frame a text are those it has learned already; the head is new."""
    first = tune(max_steps=2)
    second = tune(str(first.path), "entail", max_steps=1, lr=1e-9, weight_decay=0, out=str(tmp_path / "second"))
    assert second.model.task.tokens == first.model.task.tokens
    before, after = final_weights(first), final_weights(second)
    assert torch.allclose(before["embedding.weight"], after["embedding.weight"], atol=1e-7)
    assert after["task_head.score.weight"].shape == (2, 32)


# ---- what is refused, or only foreseen -------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(tune: Tune, tmp_path: Path) -> None:
    for method in ("lora", "all"):
        found = tune(method=method, dry_run=True)
        assert not (tmp_path / "run").exists()
        assert "adapters" in found.sentence and found.examples == {"train": 24, "valid": 12, "test": 0}
        json.dumps(found.as_dict())


def test_all_conflicts_are_told_at_once(tune: Tune) -> None:
    told = refusal(
        lambda: tune(
            "decoder", "regress", method="feature", rank=4, layers=1, label_smoothing=0.1, choices=["a"], start="b",
            valid_share=0.2, lr=0.1, batch_size=4, fresh=True, untrained=True,
        )
    )  # fmt: skip
    for option in ("rank", "layers", "lr", "batch-size", "label-smoothing", "choices", "start", "valid-share", "fresh"):
        assert any(problem.startswith(f"--{option}") for problem in told), option
    assert len(told) >= 9


@pytest.mark.slow
def test_what_does_not_fit_the_body_is_refused(tune: Tune, bodies: dict[str, Path], tmp_path: Path) -> None:
    assert refusal(lambda: tune(method="last", layers=3)) == ["--layers 3: the body has 2 blocks"]
    assert refusal(lambda: tune(metric="bleu")) == ["--metric bleu: not one of this task's"]
    assert refusal(lambda: tune(max_length=49)) == ["--max-length 49 is more than the context of the body, 48"]
    assert refusal(lambda: tune(method="lora", fresh=True)) == [
        "--method lora --fresh: adapters stand on the weights of BASE, which random ones are not"
    ]
    assert refusal(lambda: tune("gpt2")) == ["gpt2 is a preset: it has no trained weights"]
    assert refusal(lambda: tune("encoder", lm_weight=0.5)) == [
        "--lm-weight 0.5: the body sees the whole text, and has no next word to predict"
    ]
    bare = tmp_path / "bare"
    shutil.copytree(bodies["decoder"], bare, ignore=shutil.ignore_patterns("tokenizer*"))
    (what,) = refusal(lambda: tune(str(bare)))
    assert "tokenizer" in what
    assert not (tmp_path / "run").exists()


def test_what_is_cut_is_counted(tune: Tune, table: TABLE, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table("classify").read_text(encoding="utf-8").splitlines()
    path = tmp_path / "long.jsonl"
    long = json.dumps({"sentence": "the old king " * 40, "label": "light"})
    path.write_text("\n".join([*rows, long, long.replace("old", "young")]) + "\n", encoding="utf-8")
    given = {"data": [str(path)], "valid": [str(table("classify", 12, 1))], "dry_run": True, "quiet": False}
    tune(cut="start", **given)
    told = capsys.readouterr().err
    assert "2 of 26 training rows are longer than 48 tokens: they lose their start" in told
    assert "long.jsonl:25" in told


def test_rows_are_held_out_by_their_texts_alone(table: TABLE) -> None:
    data = read_task_data(
        resolve(FinetuneOptions, {"base": "x", "task": "classify", "data": [str(table("classify", 50))]}).options
    )
    everything = [*data.train, *data.valid]
    assert len(data.valid) == 5 and len(everything) == 50
    doubled = [example for example in everything for _ in range(2)]
    train, valid = hold_out(doubled, 0.1, by_class=True)
    assert not {example.texts for example in train} & {example.texts for example in valid}
    assert {example.texts for example in valid} == {example.texts for example in data.valid}


def example(text: str, label: Any) -> Example:
    return Example(text, (text,), label, 0)


def test_each_class_gives_its_share_and_keeps_a_text() -> None:
    rows = [example(f"text {index}", min(index // 60, 2)) for index in range(121)]  # 60, 60 and a single one
    rows += [example("TEXT  120", 2), example("text 0", 1)]  # that one again; a text of two classes
    train, valid = hold_out(rows, 0.1, by_class=True)
    assert [sum(one.label == label for one in valid) for label in (0, 1, 2)] in ([6, 6, 0], [6, 7, 0])
    assert {one.label for one in train} == {0, 1, 2}
    train, valid = hold_out([example(f"text {index}", (0, int(index == 3))) for index in range(12)], 0.9, by_class=True)
    assert any(1 in one.label for one in train) and len(valid) == 11
    assert hold_out([example("a", 0), example("b", 1)], 0.5, by_class=True)[1] == []


def test_training_rows_need_every_class() -> None:
    check_classes([example("a", 0), example("b", 1)], ("no", "yes"), "rows.tsv")
    assert refusal(lambda: check_classes([example("a", 1)], ("no", "yes", "maybe"), "rows.tsv")) == [
        "no training row is of the class 'no', 'maybe'"
    ]


def test_a_limited_evaluation_takes_rows_of_all_lengths(
    tune: Tune, table: TABLE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is trained by is not chosen by the longest rows alone; in the end all of them are measured."""
    seen: list[int] = []
    score = validated.score_batches

    def noted(model: Any, encoded: Any, pad_id: int, tokens: int = 0) -> Any:
        seen.extend(one.length for one in encoded)
        return score(model, encoded, pad_id, tokens)

    monkeypatch.setattr(validated, "score_batches", partial(noted, tokens=60))
    monkeypatch.setattr(validated, "ROW_TOKENS", 60)
    run = tune(data=[str(table("classify"))], valid=[str(table("classify", 40, 1))], max_steps=1, limit_batches=2)
    assert 2 <= len(seen) < 30 and min(seen) < max(seen)
    assert run.figures["valid"]["n"] == 40
