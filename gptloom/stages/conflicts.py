"""What is wrong with the options of a pretraining by themselves: all of it, before any text is read.

Every option does something or is refused. Here is what the options alone tell, with a look at the machine and at the
places they name; what depends on the text is refused where that is known (choices.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.config.masked import MASKED_ONLY
from gptloom.config.model import SIZED_FAMILIES, ModelConfig, family_presets, preset
from gptloom.config.options import option_fields
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.problems import flag
from gptloom.config.recipes import load_recipe
from gptloom.config.resolve import Resolved, idle
from gptloom.config.run_folder import STATE
from gptloom.config.signals import signals_named
from gptloom.data.reading import check_encoding
from gptloom.model.layouts import layout_for
from gptloom.model.store import read_config
from gptloom.observe.readers import make_readers
from gptloom.stages.architecture import (
    SHAPE,
    SMALLEST,
    SMALLEST_BERT,
    base_folder,
    fields_of,
    named_preset,
    objective_of,
)
from gptloom.stages.choices import (
    check_batch,
    check_ramp,
    check_sequence_length,
    check_validated,
    check_warmup,
    choose_schedule,
)
from gptloom.stages.derive import choose_optimizer
from gptloom.stages.overwriting import about_overwriting
from gptloom.stages.preflight import want_compile
from gptloom.stages.text import check_reading
from gptloom.tokenizer.train import TRAINED_KINDS
from gptloom.train.launch import check_gpus
from gptloom.train.lock import is_locked
from gptloom.train.parallel import check_heads, check_world
from gptloom.train.precision import choose_device
from gptloom.train.world import World

Asked = Resolved[PretrainOptions]
LEAVE_OUT = "leave it out"


def check_options(asked: Asked, world: World) -> None:
    """UserError with everything that options exclude in each other or make meaningless, for the processes of ``world``."""
    problems = [*_about_text(asked), *_about_base(asked)]
    model = None
    try:
        model = _outline(asked.options)
        problems += [] if model is None else layout_for(model).unfit(model)  # it could be trained, and not be saved
    except UserError as error:
        problems += error.problems
    problems += [
        *_about_objective(asked, model),
        *_about_training(asked, model),
        *_about_evaluation(asked),
        *_about_machine(asked, world),
    ]
    problems += [*_about_processes(asked, world), *_about_sharing(asked, world, model)]
    problems += [] if world.restarts else _about_folder(asked)  # else it is this training's own by now
    if problems:
        raise UserError(*problems)


@contextmanager
def recipe_named(asked: Asked) -> Iterator[None]:
    """A problem that begins with an option, ``--warmup 100 is ...``, says where in a recipe it stands, if in one."""
    try:
        yield
    except UserError as error:
        raise UserError(*(_placed(problem, asked) for problem in error.problems)) from None


def _placed(problem: Problem, asked: Asked) -> Problem:
    begins = re.match(r"--[a-z][a-z0-9-]*", problem.what)
    name = begins[0][2:].replace("-", "_") if begins else ""
    recipe = asked.options.recipe
    if recipe is None or problem.where is not None or not asked.source(name).startswith("recipe"):
        return problem
    mend = problem.mend
    if mend == LEAVE_OUT and option_fields(PretrainOptions)[name].annotation is bool:
        mend = flag(f"no_{name}")
    elif mend == LEAVE_OUT:
        mend = f"gptloom recipes copy {recipe}, and leave it out of the copy"
    return replace(problem, where=load_recipe(recipe).for_model(asked.options.model).places.get(name), mend=mend)


# ---- the parts -------------------------------------------------------------------------------------------------------


def _about_text(asked: Asked) -> Iterator[Problem]:
    options = asked.options
    for name in ("data", "valid"):
        if "-" in getattr(options, name) and not Path("-").exists():
            what = f"--{name} -: text is read several times over, which standard input cannot be"
            yield Problem(what, mend=f"cat > text.txt, then --{name} text.txt")
    yield from _said_by(partial(check_encoding, options.encoding))
    yield from _said_by(partial(check_reading, asked))
    trained_here = options.tokenizer in (None, *TRAINED_KINDS)
    if options.vocab_size is not None and options.base is None and not trained_here:
        what = "--vocab-size is for tokenizers trained here; this one has its own"
        yield Problem(what, f"--tokenizer {options.tokenizer}", LEAVE_OUT)


def _about_base(asked: Asked) -> Iterator[Problem]:
    if asked.options.base is None:
        return
    for name in ("model", "tokenizer", "vocab_size", "context", *SHAPE):
        if asked.given(name):
            yield Problem(f"{flag(name)} cannot be given with a base model: it keeps its own", mend=LEAVE_OUT)


def _about_objective(asked: Asked, model: ModelConfig | None) -> Iterator[Problem]:
    """``model`` is None where its size is derived: then any objective finds a family."""
    options = asked.options
    natural = objective_of(model) if model is not None else "masked" if options.model == "bert" else "next"
    objective = options.objective or natural
    if objective != natural and (model is not None or options.model is not None):
        kind = "sees the whole text: it would copy the next word" if objective == "next" else "sees only the past"
        mend = f"--objective {natural}, or --model {'bert-tiny' if objective == 'masked' else 'modern-nano'}"
        yield Problem(f"--objective {objective} cannot train this model, which {kind}", mend=mend)
    if objective == "next":
        yield from idle(asked, MASKED_ONLY, "it is for --objective masked")
    elif asked.given("sample_tokens") and options.sample_tokens:
        yield Problem("--sample-tokens is for models that write; masks are filled with a word each", mend=LEAVE_OUT)
    lacks_head = options.base is not None and model is not None and not model.pair_head
    if objective == "masked" and options.pairs not in (None, "none") and lacks_head:
        yield Problem(f"--pairs {options.pairs} needs a head that the base model lacks", options.base, "--pairs none")


def _about_training(asked: Asked, model: ModelConfig | None) -> Iterator[Problem]:
    options = asked.options
    if options.warmup is not None and options.warmup_tokens is not None:
        yield Problem("--warmup and --warmup-tokens say the same", mend="leave one of them out")
    elif options.max_steps is not None and len(options.batch_ramp) in (0, 2):
        yield from _said_by(partial(check_warmup, options, options.max_steps))
    smallest = SMALLEST_BERT if options.objective == "masked" else SMALLEST
    alike = family_presets(options.model)[0] if options.model in SIZED_FAMILIES else smallest  # whatever its size
    family = model or ModelConfig(**preset(alike))
    if options.embedding_lr is not None and (options.optimizer or choose_optimizer(family).value) == "adamw":
        yield Problem("--embedding-lr is for --optimizer muon: adamw has one rate", mend=LEAVE_OUT)
    schedule = options.schedule or choose_schedule(family).value
    if asked.given("decay") and schedule != "trapezoid":
        yield Problem(f"--decay is for --schedule trapezoid, not {schedule}", mend=LEAVE_OUT)
    if options.decay_tokens is not None and schedule not in ("cosine", "linear"):
        yield Problem(f"--decay-tokens is for --schedule cosine or linear, not {schedule}", mend=LEAVE_OUT)
    if options.batch_ramp and (len(options.batch_ramp) != 2 or min(options.batch_ramp) < 1):
        what = "--batch-ramp takes two numbers: tokens of the first step, and of those in which steps grow"
        yield Problem(what, mend="--batch-ramp 32768 4000000000")
    if asked.given("final_lr") and schedule == "constant":
        yield Problem("--final-lr does nothing with --schedule constant", mend=LEAVE_OUT)


def _about_evaluation(asked: Asked) -> Iterator[Problem]:
    options = asked.options
    yield from _said_by(partial(make_readers, options.log, Path()))
    if not options.log:
        yield Problem("--log names nothing", mend="--log none")
    if options.sample and not options.sample_tokens:
        yield Problem("--sample does nothing with --sample-tokens 0", mend="leave one of them out")
    if options.split != "none" or options.valid:
        return
    yield from _said_by(partial(check_validated, options, False))
    if options.sample:
        return
    if asked.given("sample_tokens") and options.sample_tokens:
        what = "--sample-tokens does nothing without validation text, whose beginning would be the prompt"
        yield Problem(what, mend='--sample "a prompt", or leave it out')
    if options.eval_every is not None and options.save_every is not None:
        yield Problem("--eval-every does nothing: there is nothing to validate and to sample", mend=LEAVE_OUT)


def _about_machine(asked: Asked, world: World) -> Iterator[Problem]:
    options = asked.options
    yield from _said_by(partial(signals_named, options.save_on_signal))
    try:
        device = choose_device(options.device)
    except UserError as error:
        yield from error.problems
        return
    yield from _said_by(partial(check_gpus, world.local_size, options.device))
    if options.compile:
        yield from _said_by(partial(want_compile, True, device, 0.0))
    strategy, tensor = (options.strategy, options.tensor_parallel) if world.size > 1 else (None, 1)
    yield from _said_by(partial(check_world, world, strategy, device, tensor, options.offload))


def _about_processes(asked: Asked, world: World) -> Iterator[Problem]:
    options, tensor = asked.options, asked.options.tensor_parallel
    if not options.nodes:
        yield from idle(asked, ("port",), "only the machines of --nodes meet there")
    if options.nodes and options.out is None:
        yield Problem(
            "--nodes needs --out: every machine must name the same run folder", mend="--out /shared/runs/NAME"
        )
    if world.size == 1:
        fixed = {"strategy": options.strategy is not None, "tensor_parallel": tensor > 1}
        if not options.nodes:
            fixed |= {"elastic": options.elastic, "timeout": asked.given("timeout")}
        for name in (name for name, matters in fixed.items() if matters):
            what = f"{flag(name)} does nothing: there is only one process"
            yield Problem(what, mend="--processes 2, or leave it out")
    among = {"fsdp": world.size, "hsdp": world.local_size}.get(options.strategy or "")
    if world.size > 1 and among == tensor:
        why = f"--tensor-parallel {tensor} takes them all" if tensor > 1 else "each machine has one"
        yield Problem(f"--strategy {options.strategy} has no processes to shard over: {why}", mend="--strategy ddp")


def _about_sharing(asked: Asked, world: World, model: ModelConfig | None) -> Iterator[Problem]:
    """Whether model and batch, as far as they are known, divide among the processes."""
    options, tensor = asked.options, asked.options.tensor_parallel if world.size > 1 else 1
    if world.size % tensor:
        return  # said of the machine
    if model is not None:
        yield from _said_by(partial(check_heads, model, tensor))
    context = options.context if model is None or options.base is None else model.context
    if context is not None:
        yield from _said_by(partial(check_sequence_length, options, context))
    length, shares = options.sequence_length or context, world.size // tensor
    if options.batch_tokens is not None and length is not None:
        yield from _said_by(partial(check_batch, options.batch_tokens, length, shares))
        if len(options.batch_ramp) == 2:
            yield from _said_by(partial(check_ramp, options.batch_ramp, options.batch_tokens, length, shares))


def _about_folder(asked: Asked) -> Iterator[Problem]:
    options = asked.options
    if options.out is None:
        if options.overwrite:
            yield Problem("--overwrite does nothing without --out: the run gets a folder of its own", mend=LEAVE_OUT)
        return
    folder = Path(options.out)
    yield from _said_by(partial(check_folder, folder, options.overwrite))
    yield from about_overwriting(options)


def check_folder(folder: Path, overwrite: bool) -> None:
    """UserError when a new run cannot go into ``folder``."""
    what = mend = None
    nearest = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if folder.exists() and not folder.is_dir():
        what = "there is a file of this name"
    elif not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = f"the folder cannot be written ({nearest} is {'read-only' if nearest.is_dir() else 'a file'})"
    elif folder.is_dir() and any(folder.iterdir()):
        if not (folder / STATE).exists():
            what = "the folder is not empty and holds no run"
        elif is_locked(folder):
            what = "another process is training in this folder"
            mend = f"gptloom follow {folder}, gptloom stop {folder}, or another --out"
        elif not overwrite:
            what = "there is a run in this folder already"
            mend = f"gptloom resume {folder}, another --out, or --overwrite"
    if what:
        raise UserError(Problem(what, str(folder), mend or "another --out"))


# ---- shared ----------------------------------------------------------------------------------------------------------


def _outline(options: PretrainOptions) -> ModelConfig | None:
    """The model, but for its vocabulary and maybe its context; None where even the size depends on the text."""
    if options.base is not None:
        return read_config(base_folder(options.base))
    name = named_preset(options)
    return None if name is None else ModelConfig(**fields_of(options, name))


def _said_by(check: Callable[[], object]) -> list[Problem]:
    """What ``check`` finds wrong."""
    try:
        check()
    except UserError as error:
        return error.problems
    return []
