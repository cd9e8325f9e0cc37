"""``gptloom verify-resume``: a training that is killed again and again must end as one that never was.

The same training is run twice, as real processes: once in peace, once killed at chosen and random moments and resumed
until it is finished. Then everything that the two left is compared, tensor by tensor and step by step.
"""

from __future__ import annotations

import math
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptloom.config.errors import UserError
from gptloom.config.files import write_text
from gptloom.config.problems import flag
from gptloom.config.recipes import load_recipe
from gptloom.config.resolve import Resolved
from gptloom.config.run_folder import EVENTS
from gptloom.config.verify import VerifyResumeOptions
from gptloom.data.findings import counted
from gptloom.data.python_corpus import DOCUMENT_SEPARATOR, build_python_corpus
from gptloom.observe.events import read_events
from gptloom.observe.numbers import human_time
from gptloom.observe.terminal import say
from gptloom.stages.compare_runs import TENSORS, Comparison, compare_runs
from gptloom.stages.killing import Attempt, AttemptFailed, Kill, Moment, Phase

# In which order kills are given a phase of their own; those beyond fall at random. Preparing and finishing come last:
# there is less to get wrong there.
PHASES: tuple[Phase, ...] = ("training", "saving", "evaluating", "sampling", "finishing", "preparing")
# Another number of processes adds up in another order. With AdamW in fp32 losses then stay within 1e-5; Muon's
# orthogonalisation and a model in bf16 round to eight bits, which a difference in the last one may turn.
RELATIVE = {("adamw", "fp32"): 1e-5, ("muon", "fp32"): 1e-3, ("adamw", "bf16"): 1e-2, ("muon", "bf16"): 1e-2}
# Rates at which a training is quiet: at usual ones the first steps are so wild that rounding differences grow tenfold
# in every three of them, whatever caused them.
RATES = {"adamw": {"lr": 3e-4}, "muon": {"lr": 2e-3, "embedding_lr": 1e-3}}
TEXT_BYTES = 200_000
CONTEXT, MICRO_BATCH, ROWS = 64, 2, 8
PREPARING_SECONDS = 0.03  # training a tokenizer and building shards take longer on any text


@dataclass(frozen=True)
class Straight:
    """The run that nobody disturbed: where it is, and when what happened."""

    run: Path
    launched: float
    events: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        return float(self.events[-1]["time"]) - self.launched

    @property
    def seconds_per_step(self) -> float:
        return (self.events[-1]["time"] - self.events[0]["time"]) / self.events[-1]["step"]

    def random_moment(self, draw: random.Random) -> Moment:
        """Any time of the run, each as likely, told by the step before it, so that another speed changes nothing."""
        at = draw.uniform(self.launched, self.events[-1]["time"])
        steps = [event for event in self.events if event["type"] in ("start", "train") and event["time"] <= at]
        if not steps:
            return Moment(None, delay=at - self.launched)
        return Moment(steps[-1]["step"], delay=at - steps[-1]["time"])


@dataclass(frozen=True)
class Killed:
    """The run that was killed: where it is, what the kills hit, and why it never came to its end, if so."""

    run: Path
    kills: list[Kill]
    fault: str | None = None


@dataclass(frozen=True)
class Proof:
    """What came of one pair of process counts."""

    before: int
    after: int
    kills: list[Kill]
    comparison: Comparison | None  # None: it never came to an end
    tolerance: float  # relative; 0: to the bit
    fault: str | None = None

    @property
    def holds(self) -> bool:
        """Whether it was killed at least once and ended as it should."""
        return bool(self.kills) and self.comparison is not None and not self.comparison.beyond(self.tolerance)

    @property
    def verdict(self) -> str:
        """A sentence."""
        if self.comparison is None:
            return str(self.fault)
        if not self.kills:
            return "it was finished before the first kill, which proves nothing: more --steps"
        beyond = self.comparison.beyond(self.tolerance)
        if beyond:
            return f"they differ: {'; '.join(part.told(self.tolerance) for part in beyond)}"
        if self.comparison.exact:
            return "equal to the bit"
        losses, tensors = (f"{self.comparison.largest(slack):.1e}" for slack in (1.0, TENSORS))
        return (
            f"losses equal within {self.tolerance:.0e} (largest difference {losses}), "
            f"weights and optimizer within {self.tolerance * TENSORS:.0e} ({tensors})"
        )


@dataclass(frozen=True)
class Verified:
    """What ``gptloom.verify_resume`` returns."""

    proofs: list[Proof]
    folder: Path | None  # of the runs, where they were kept

    @property
    def holds(self) -> bool:
        return all(proof.holds for proof in self.proofs)


@dataclass
class Trial:
    """A training that is run in peace and killed, in ``folder``; ``options`` are those of ``gptloom pretrain``.

    They must leave nothing to be derived from time or memory, which would differ from run to run.
    """

    folder: Path
    options: list[object]
    steps: int
    eval_every: int
    save_every: int
    _straight: dict[int, Straight] = field(default_factory=dict)

    def straight(self, processes: int = 1) -> Straight:
        """The undisturbed run on so many processes, made when it is first asked for.

        UserError when the training refuses its options, AttemptFailed when it fails in another way.
        """
        if processes not in self._straight:
            run = self.folder / f"straight-{processes}"
            try:
                with self._attempt(run, 0, self._pretrain(run, processes)) as attempt:
                    attempt.finish(math.inf)
            except AttemptFailed as failed:
                raise (UserError(*failed.problems) if failed.problems else failed) from None
            self._straight[processes] = Straight(run, attempt.launched, read_events(run / EVENTS))
        return self._straight[processes]

    def killed(self, name: str, before: int, after: int, moments: Sequence[Moment]) -> Killed:
        """The same training killed at ``moments`` and resumed each time, the first time on ``after`` processes.

        Ends early where the training is quicker than a kill.
        """
        run = self.folder / name
        kills: list[Kill] = []
        limit = 60 + 20 * self.straight(before).seconds
        try:
            for number in range(len(moments) + 1):
                arguments = self._resume(run, before, after) if number else self._pretrain(run, before)
                with self._attempt(run, number, arguments) as attempt:
                    if number == len(moments):
                        attempt.finish(limit)
                        break
                    hit = attempt.kill_at(moments[number], limit)
                if hit is None:
                    break
                kills.append(Kill(number, after if number else before, *hit))
                say(f"  killed while {hit[0]} at step {hit[1]}")
        except AttemptFailed as failed:
            return Killed(run, kills, str(failed))
        return Killed(run, kills)

    def plan(self, kills: int, straight: Straight, draw: random.Random) -> list[Moment]:
        """So many moments in the order in which a run comes by them: one in each phase first, the rest at random."""
        placed = [self._in_phase(phase, straight, draw) for phase in PHASES[:kills]]
        placed += [straight.random_moment(draw) for _ in range(kills - len(placed))]
        order: tuple[Phase | None, ...] = (None, "training", "evaluating", "sampling", "saving", "finishing")

        def when(moment: Moment) -> tuple[float, int]:
            if moment.phase == "preparing":
                return -1.0, 0
            step = draw.uniform(0, self.steps) if moment.step is None else moment.step
            return step, order.index(moment.phase)

        return sorted(placed, key=when)

    def _in_phase(self, phase: Phase, straight: Straight, draw: random.Random) -> Moment:
        match phase:
            case "preparing":
                return Moment(None, phase, draw.uniform(0, PREPARING_SECONDS))
            case "training":  # in the first half: a difference grows with the steps after it
                return Moment(draw.randrange(1, self.steps // 2), phase, draw.uniform(0, straight.seconds_per_step))
            case "finishing":
                return Moment(self.steps, phase)
        every = self.save_every if phase == "saving" else self.eval_every
        return Moment(draw.randrange(every, self.steps + 1, every), phase)

    def _attempt(self, run: Path, number: int, arguments: list[object]) -> Attempt:
        return Attempt(run, arguments, self.folder / f"{run.name}-{number}.log", self.eval_every)

    def _pretrain(self, run: Path, processes: int) -> list[object]:
        pace = ["--max-steps", self.steps, "--eval-every", self.eval_every, "--save-every", self.save_every]
        several = ["--processes", processes] if processes > 1 else []
        return ["pretrain", *self.options, *pace, "--log-every", 1, *several, "--out", run]

    def _resume(self, run: Path, before: int, after: int) -> list[object]:
        return ["resume", run, *(["--processes", after] if after != before else [])]


def verify_resume(resolved: Resolved[VerifyResumeOptions]) -> Verified:
    """Runs, kills, resumes and compares, for each pair of process counts.

    UserError when the training refuses its options. The runs lie in a temporary folder, which is kept when they differ.
    """
    options = resolved.options
    folder = Path(tempfile.mkdtemp(prefix="gptloom-verify-resume-"))
    proofs: list[Proof] = []
    try:
        trial = make_trial(options, folder)
        proofs += [prove(trial, options, *pair) for pair in options.pairs]
    finally:
        kept = options.keep_files or not all(proof.holds for proof in proofs)
        if not kept or not proofs:
            shutil.rmtree(folder, ignore_errors=True)
    return Verified(proofs, folder if kept else None)


def prove(trial: Trial, options: VerifyResumeOptions, before: int, after: int) -> Proof:
    """One pair: the undisturbed run, the killed one, and how they compare."""
    tolerance = 0.0 if before == after else RELATIVE[options.optimizer, options.precision]
    say(f"{trial.steps} steps on {counted(before, 'process', 'processes')}, undisturbed")
    try:
        straight = trial.straight(before)
    except AttemptFailed as failed:
        return Proof(before, after, [], None, tolerance, str(failed))
    say(f"  took {human_time(straight.seconds)}")
    say(f"the same, killed and resumed on {counted(after, 'process', 'processes')}")
    moments = trial.plan(options.kills, straight, random.Random(options.seed))
    done = trial.killed(f"killed-{before}-{after}", before, after, moments)
    comparison = compare_runs(done.run, straight.run) if done.fault is None else None
    return Proof(before, after, done.kills, comparison, tolerance, done.fault)


def make_trial(options: VerifyResumeOptions, folder: Path) -> Trial:
    """The training that ``options`` describe, with every option given that would be derived from time or memory."""
    data = [str(Path(name).absolute()) for name in options.data] or [str(_python_text(folder / "text.txt"))]
    rows = math.lcm(ROWS, MICRO_BATCH * math.lcm(*(count for pair in options.pairs for count in pair)))
    given: dict[str, object] = {
        **_shape(options.model),
        "optimizer": options.optimizer,
        **RATES[options.optimizer],
        "precision": options.precision,
        "strategy": options.strategy,
        "threads": options.threads,
        "seed": options.seed,
        "context": CONTEXT,
        "batch_tokens": rows * CONTEXT,
        "micro_batch": MICRO_BATCH,
        "dropout": 0.1,  # so that its draws are proven as well
        "limit_batches": 4,
        "sample_tokens": 16,
        "log": "none",
    }
    words = [word for name, value in given.items() if value is not None for word in (flag(name), value)]
    steps = options.steps
    return Trial(folder, ["--data", *data, *words, "--no-compile"], steps, max(1, steps // 4), max(1, steps // 6))


def _shape(model: str | None) -> dict[str, object]:
    """The preset, or the shape of the quickstart's recipe."""
    if model is not None:
        return {"model": model}
    recipe = load_recipe("quickstart").options
    return {name: recipe[name] for name in ("model", "vocab_size", "n_layer", "d_model", "n_head")}


def _python_text(path: Path) -> Path:
    """Some documents of the text that the running Python carries: the same on every call."""
    corpus = build_python_corpus(path.parent / "corpus")
    documents = corpus.train.read_text(encoding="utf-8").split(DOCUMENT_SEPARATOR)
    chosen: list[str] = []
    while documents and sum(map(len, chosen)) < TEXT_BYTES:
        chosen.append(documents.pop(0))
    write_text(path, "\n".join(chosen))
    return path
