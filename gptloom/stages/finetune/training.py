"""One fine-tuning, from adopted body to the folder of the best step. Read it from ``train_one`` on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import gptloom
from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import Resolved, write_config
from gptloom.data.task_batches import TaskBatches
from gptloom.data.task_inputs import Encoded
from gptloom.evaluation.task_metrics import TaskReport, default_metric, evaluate_task, higher_is_better, metric_names
from gptloom.generation.classifier import Classifier, score_batches
from gptloom.interop.bodies import open_body
from gptloom.interop.classifiers import open_classifier
from gptloom.interop.foreign import ForeignModel
from gptloom.model.layouts import layout_for
from gptloom.model.lora import LoraConfig, merge_lora
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.observe.events import read_events
from gptloom.observe.machine import machine_info
from gptloom.observe.pictures import can_draw
from gptloom.observe.readers import make_readers
from gptloom.observe.task_pictures import draw_confusion
from gptloom.observe.terminal import ProgressReader, human_time, say
from gptloom.stages.claim import Claim
from gptloom.stages.finetune.body import Body, adopt, parameters_of
from gptloom.stages.finetune.data import TaskData
from gptloom.stages.finetune.forms import AdapterFolder, ForeignBody, LearnedOnly
from gptloom.stages.finetune.learning import (
    choose_learning,
    choose_pace,
    class_weights,
    count_steps,
    loop_settings,
    optimizer_settings,
)
from gptloom.stages.finetune.part import choose_part, part_sentence, trained_parameters
from gptloom.stages.training import FINAL, shown_to
from gptloom.train.checkpoint import FOLDER, name_of, restore, restore_weights
from gptloom.train.compiling import can_compile, compile_blocks
from gptloom.train.form import About, Form, WholeModel
from gptloom.train.guards import Guard
from gptloom.train.hooks import Patience, Save, due
from gptloom.train.loop import fit, forward_backward
from gptloom.train.memory import forget_peak, keep_freed_memory, peak_memory
from gptloom.train.optimizers import Optimizer
from gptloom.train.parallel import Parallel
from gptloom.train.precision import choose_device, choose_dtype
from gptloom.train.reproducible import record
from gptloom.train.rollback import WayBack
from gptloom.train.run import EVENTS, Hook, LoopSettings, Run, RunState
from gptloom.train.saver import Saver
from gptloom.train.task_objective import TaskLoss
from gptloom.train.timing import Timing
from gptloom.train.world import World

CONFIG, METRICS, ADAPTER = "config.yaml", "metrics.json", "adapter"
Event = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Everything a fine-tuning is made of, once all its options have a value but those that a measurement decides."""

    resolved: Resolved[FinetuneOptions]
    data: TaskData
    body: Body
    lora: LoraConfig | None
    objective: TaskLoss
    batches: TaskBatches
    valid: list[Encoded]
    metric: str
    device: torch.device
    dtype: torch.dtype  # computed in; another library's body keeps fp32 weights and casts by itself

    @property
    def options(self) -> FinetuneOptions:
        return self.resolved.options

    @property
    def form(self) -> Form:
        """What is trained little of is stored alone, whatever trains more as a model folder."""
        model = self.body.model
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if self.lora is not None and isinstance(model, Transformer) and self.body.path is not None:
            return AdapterFolder(trained, model.config, self.lora, self.body.path)
        if self.lora is not None or self.options.method == "feature":
            return LearnedOnly(trained)
        if isinstance(model, ForeignModel):
            return ForeignBody(model, open_body)
        return WholeModel()


def plan_run(resolved: Resolved[FinetuneOptions], data: TaskData) -> Plan:
    """Opens the body and settles what follows from it; nothing is written. UserError for all that cannot be."""
    options = resolved.options
    device = choose_device(options.device)
    forget_peak(device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    dtype, _ = choose_dtype(options.precision, device)
    body = adopt(options, data, dtype)
    if dtype == torch.float16 and isinstance(body.model, ForeignModel):
        what = f"--precision fp16: {options.base} is another library's model, whose gradients are not scaled"
        raise UserError(Problem(what, mend="--precision bf16 or fp32"))
    resolved = choose_learning(resolved, body)
    options = resolved.options
    weights = class_weights(options.class_weights, data, options.task)
    objective = TaskLoss(
        body.head,
        class_weights=weights,
        label_smoothing=options.label_smoothing,
        lm_weight=options.lm_weight or 0.0,
    )
    metric = _metric(options, body, data)
    body = replace(body, task=body.task.model_copy(update={"metric": metric}))
    if isinstance(body.model, Transformer):
        for sentence in layout_for(body.model.config).task_unfit(body.model.config):
            say(f"for gptloom alone: {sentence}")
    lora = choose_part(body, options)
    batches = TaskBatches(
        _learned(body, data),
        options.batch_size,
        options.seed,
        body.tokenizer.pad_id or 0,
        causal=body.next_words,
        next_word=bool(options.lm_weight),
    )
    return Plan(resolved, data, body, lora, objective, batches, encoded(body, data.valid), metric, device, dtype)


def encoded(body: Body, examples: Sequence[Any]) -> list[Encoded]:
    """Examples as the model reads them, scores on the scale it learns."""
    task = body.task
    made = body.inputs.encode(examples)
    if task.is_score:
        return [replace(one, label=(one.label - task.score_mean) / task.score_std) for one in made]
    return made


def _learned(body: Body, data: TaskData) -> list[Encoded]:
    """The training examples, without spans whose answer was cut away."""
    made = encoded(body, data.train)
    if body.task.task != "span":
        return made
    kept = [one for one in made if one.label[0] >= 0]
    if len(kept) < len(made):
        say(f"{len(made) - len(kept):,} of {len(made):,} training rows are left out: their answer was cut away")
    if not kept:
        raise UserError(Problem("no training row still has its answer", "--max-length", "a larger one"))
    return kept


def _metric(options: FinetuneOptions, body: Body, data: TaskData) -> str:
    """By which the best step is chosen."""
    names = metric_names(body.task)
    if options.metric is not None and options.metric not in names:
        raise UserError(Problem(f"--metric {options.metric}: not one of this task's", mend=", ".join(names)))
    if options.metric == "roc_auc" and len({example.label for example in data.valid}) < len(body.task.labels):
        what = "--metric roc_auc: the validation rows do not hold every class"
        raise UserError(Problem(what, mend="other --valid rows, or --metric accuracy"))
    return options.metric or default_metric(body.task)


def train_one(
    plan: Plan,
    claim: Claim,
    callbacks: Sequence[Hook] = (),
    checkpoint: tuple[Path, dict[str, Any]] | None = None,
) -> None:
    """Trains, and writes the best step to ``final/``; of a ``checkpoint`` (folder, document) all values are put in first."""
    model = plan.body.model.to(plan.device)
    say(part_sentence(plan.body))
    if plan.device.type == "cpu":
        keep_freed_memory()
    if plan.options.compile and isinstance(model, Transformer) and can_compile(plan.device):
        compile_blocks(model.blocks)
    parallel = Parallel(World(), "one", plan.device)
    optimizer = Optimizer(
        model,
        optimizer_settings(plan.options),
        torch.float32 if isinstance(model, ForeignModel) else plan.dtype,
        parallel,
        lr_factor=partial(_rate_of, plan.body, plan.options.layer_decay) if plan.options.layer_decay < 1 else None,
    )
    if checkpoint is None:
        plan = _settle(plan, optimizer, parallel)
        write_config(claim.folder / CONFIG, plan.resolved, "finetune")
    assert plan.options.max_steps is not None
    state = RunState() if checkpoint is None else RunState(**checkpoint[1]["run"])
    run = Run(claim.folder, loop_settings(plan.options, plan.options.max_steps, state.begin), state, parallel)
    run.lock, run.form, run.optimizer, run.model = claim.lock, plan.form, optimizer, model
    run.save_on_signal = list(plan.options.save_on_signal)
    # A model that has learned the task meets hard examples with a loss far above its mean: nothing is wrong with them.
    run.guard = Guard(spike=float("inf"))
    run.summary = _summary(plan, run)
    if checkpoint is not None:
        restore(run, *checkpoint)
    claim.sure()
    _fit(run, plan, model, optimizer, callbacks)


def _rate_of(body: Body, decay: float, name: str) -> float:
    """Layer-wise decay (ELMo's and ULMFiT's idea, as ELECTRA has it): each layer learns ``decay`` times the next one."""
    top = body.model.config.n_layer + 1
    return decay ** (top - body.depth_of(name))


def _settle(plan: Plan, optimizer: Optimizer, parallel: Parallel) -> Plan:
    """Times a step, and settles length and pace; says what was chosen and what it will take."""
    seconds = _measure(plan, optimizer, parallel)
    steps = count_steps(plan.options, plan.batches, seconds)
    plan = replace(plan, resolved=choose_pace(plan.resolved, steps, plan.batches, seconds))
    for name, setting in plan.resolved.settings().items():
        if setting.rule is not None:
            say(f"  --{name.replace('_', '-')} {setting.value}: {setting.rule}")
    data = plan.data
    say(
        f"{steps.steps:,} steps ({steps.rule}) · {len(data.train):,} training, {len(data.valid):,} validation"
        + (f", {len(data.test):,} test" if data.test else "")
        + f" examples · about {human_time(steps.steps * seconds)}"
    )
    return plan


def _measure(plan: Plan, optimizer: Optimizer, parallel: Parallel) -> float:
    """Seconds of forward and backward over a batch of the usual length; nothing is learned from it."""
    steps = plan.batches.steps_per_epoch
    sizes = {step: plan.batches.batch(step).tokens for step in range(min(steps, 20))}
    usual = sorted(sizes, key=lambda step: sizes[step])[len(sizes) // 2]
    settings = LoopSettings(steps=1, micro_batch=plan.options.micro_batch, seed=plan.options.seed)
    probe = Run(Path(), settings, RunState(), parallel)
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        forward_backward(probe, plan.objective, plan.batches.batch(usual), plan.body.model, optimizer)
        taken.append(time.perf_counter() - began)
        optimizer.zero_grad()
    return taken[-1] * 1.1  # and the optimizer's part


def _summary(plan: Plan, run: Run) -> dict[str, Any]:
    model = plan.body.model
    return {
        "model": f"{plan.options.base} for {plan.options.task}",
        "method": "patterns" if plan.options.train else plan.options.method,
        "parameters": parameters_of(model),
        "trained_parameters": trained_parameters(model),
        "examples": len(plan.data.train),
        "tokens_per_step": plan.batches.tokens_per_step,
        "context": plan.body.task.max_length,
        "metric": plan.metric,
        "precision": str(plan.dtype).removeprefix("torch."),
        "processes": 1,
        "machine": machine_info(run.path),
        "repeat": record(plan.options.seed, {"tokenizer": plan.body.tokenizer.hash, "data": plan.data.hash}),
    }


def _fit(run: Run, plan: Plan, model: Any, optimizer: Optimizer, callbacks: Sequence[Hook]) -> None:
    """The loop, with its hooks in the order in which they work."""
    options = plan.options
    assert options.eval_every is not None and options.save_every is not None
    saver = Saver(partial(describe, plan), wait_for_disk=options.wait_for_disk)
    readers: list[Any] = [] if options.quiet else [ProgressReader()]
    readers += make_readers([name for name in options.log if name != "none"], run.path)
    hooks: list[Hook] = [Timing(), EvaluateTask(plan, options.eval_every)]
    if options.patience is not None:
        hooks.append(Patience(options.patience))
    hooks += [Save(saver, options.save_every, options.keep), _finish(plan)]
    hooks += [shown_to(reader) for reader in readers]
    run.way_back = WayBack(plan.batches, restore, read_events(run.path / EVENTS))
    try:
        fit(run, plan.objective, run.way_back.batch, model, optimizer, [*hooks, *callbacks])
    finally:
        for reader in readers:
            reader.close()


class EvaluateTask:
    """The metrics on the validation examples every ``every`` steps and at the end; keeps the best step."""

    def __init__(self, plan: Plan, every: int) -> None:
        self.plan, self.every = plan, every

    def __call__(self, event: Event, run: Run) -> None:
        if not due(event, run, self.every):
            return
        started = time.perf_counter()
        loss, report = validated(self.plan)
        value, state = report.metrics[self.plan.metric], run.state
        state.valid_loss = loss
        sign = 1.0 if higher_is_better(self.plan.metric) else -1.0
        if state.best_value is None or sign * value > sign * state.best_value:
            state.best_step, state.best_value, state.stale_evaluations = state.step, value, 0
        else:
            state.stale_evaluations += 1
        run.emit(
            "evaluate",
            valid_loss=loss,
            metric=self.plan.metric,
            metrics=report.metrics,
            best_step=state.best_step,
            seconds=time.perf_counter() - started,
        )


def validated(plan: Plan) -> tuple[float, TaskReport]:
    """Loss per item, and the report, on the validation examples."""
    classifier = Classifier(plan.body.model, plan.body.tokenizer, plan.body.task)
    found: dict[int, torch.Tensor] = {}
    total = items = 0.0
    limit = plan.options.limit_batches
    for number, scored in enumerate(score_batches(plan.body.model, plan.valid, plan.body.tokenizer.pad_id or 0)):
        if number == limit:
            break
        if counted := plan.objective.count(scored.batch)["task"]:
            total, items = total + float(plan.objective.task_loss(scored.scores, scored.batch)), items + counted
        found |= {index: own.cpu() for index, own in scored.of_examples()}
    places = sorted(found)
    examples = [plan.data.valid[place] for place in places]
    answers = classifier.answers(examples, [plan.valid[place] for place in places], [found[place] for place in places])
    return total / max(items, 1.0), evaluate_task(plan.body.task, examples, answers)


# ---- what is written -------------------------------------------------------------------------------------------------


def describe(plan: Plan, run: Run, folder: Path) -> About:
    """What a model folder of this run says of itself at the present step."""
    state = run.state
    parent = plan.body.path
    parents = [] if parent is None else [{"path": relative_path(parent, folder), "hash": plan.body.base_hash}]
    lineage = {
        "stage": "finetune",
        "parents": parents,
        "run": run.path.name,
        "step": state.step,
        "tokens": state.tokens,
        "data_hash": plan.data.hash,
        "options": {name: setting.value for name, setting in plan.resolved.settings().items()},
        "metrics": {"valid_loss": state.valid_loss, plan.metric: state.best_value},
    }
    facts = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gptloom": gptloom.__version__,
        "precision": str(plan.dtype).removeprefix("torch."),
        "data": plan.data.hash,
        "base": plan.body.base_hash,
    }
    config: Any = plan.body.model.config
    return About(config, plan.body.tokenizer, lineage, facts, plan.body.task)


def relative_path(path: Path, folder: Path) -> str:
    """``path`` from ``folder``; as it is where no way leads there (another drive of Windows)."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        return str(path)


def _finish(plan: Plan) -> Hook:
    """Writes ``final/`` and the figures while the run still counts as running: broken off here, it is resumed."""

    def finish(event: Event, run: Run) -> None:
        if event["type"] != "closing" or not run.complete:
            return
        best = run.state.best_step or run.state.step
        if best != run.state.step:
            restore_weights(run, run.path / FOLDER / name_of(best))
        about = describe(plan, run, run.path / FINAL)
        about = replace(about, lineage={**about.lineage, "step": best})
        with torch.no_grad():
            for name, parameter in run.model.named_parameters():
                parameter.data = run.optimizer.masters.tensors[name].detach().to("cpu", torch.float32)
            run.model.cpu()
        finished, cost = replace(plan, body=_plain_scores(plan.body)), cost_of(plan, run)
        write_final(finished, run.path, about)
        write_metrics(finished, run.path, cost)

    return finish


def _plain_scores(body: Body) -> Body:
    """The head gives the scores themselves from now on: mean and deviation go into its weights."""
    task = body.task
    if not task.is_score:
        return body
    head: Any = body.model.task_head
    with torch.no_grad():
        head.score.weight.mul_(task.score_std)
        head.score.bias.mul_(task.score_std).add_(task.score_mean)
    return replace(body, task=task.model_copy(update={"score_mean": 0.0, "score_std": 1.0}))


def write_final(plan: Plan, folder: Path, about: About) -> None:
    """The model, fp32 and on the CPU, as a folder for everyone; adapters also as PEFT has them."""
    model, final = plan.body.model, folder / FINAL
    about = replace(about, task=plan.body.task)
    if plan.lora is not None:
        if isinstance(plan.form, AdapterFolder):
            learned = {name: p.detach() for name, p in model.named_parameters() if plan.form.keeps(name)}
            plan.form.write(folder / ADAPTER, learned, about)
        _merge(plan)
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if isinstance(model, ForeignModel):
        ForeignBody(model, open_body).write(final, state, about)
    else:
        save_model(final, state, about.config, tokenizer=about.tokenizer, lineage=about.lineage, task=about.task)


@torch.no_grad()
def _merge(plan: Plan) -> None:
    """Folds the adapters into the matrices and says what that changed in the scores."""
    some = plan.valid[:32]
    pad = plan.body.tokenizer.pad_id or 0
    before = [scored.scores for scored in score_batches(plan.body.model, some, pad)]
    merge_lora(plan.body.model)
    after = [scored.scores for scored in score_batches(plan.body.model, some, pad)]
    difference = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    say(f"adapters merged in fp32: scores differ by at most {difference:.1g}")


def cost_of(plan: Plan, run: Run) -> dict[str, Any]:
    """What the training took; adapters must not be merged yet."""
    return {
        "seconds": run.state.seconds,
        "peak_memory": peak_memory(plan.device),
        "trained_parameters": trained_parameters(plan.body.model),
    }


def write_metrics(plan: Plan, folder: Path, cost: Mapping[str, Any]) -> None:
    """``metrics.json``: the figures of the stored folder on validation and test examples, beside a constant answer's."""
    classifier = open_classifier(str(folder / FINAL), device=plan.device.type)
    document: dict[str, Any] = {"version": 1, "metric": plan.metric, "cost": cost}
    for side, examples in (("valid", plan.data.valid), ("test", plan.data.test)):
        if examples:
            report = evaluate_task(plan.body.task, examples, classifier.predict(examples))
            document[side] = report.as_dict()
            if report.confusion is not None and can_draw():
                title = f"{folder.name}, {side}: {report.n:,} rows"
                path = folder / f"confusion-{side}.png"
                draw_confusion(plan.body.task.labels, report.confusion, path, title=title)
    write_text(folder / METRICS, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
