"""The one training loop."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from gptloom.data.batch import Batch
from gptloom.train.checkpoint import forget_after
from gptloom.train.guards import FINE
from gptloom.train.objective import Objective
from gptloom.train.optimizers import Optimizer
from gptloom.train.out_of_memory import levers_named, rows_of_a_pass, with_fewer_rows
from gptloom.train.rollback import heed
from gptloom.train.run import Hook, Run


def fit(
    run: Run,
    objective: Objective,
    batches: Callable[[int], Batch],
    model: nn.Module,
    optimizer: Optimizer,
    hooks: Sequence[Hook] = (),
) -> Run:
    """Trains ``model`` in place from ``run.state.step`` to ``run.settings.steps``.

    ``batches(step)`` gives the global batch of a step (the first is 0), always the same for the same step; each process
    of ``run.world`` takes its rows of it, and all come to the same loss and the same decisions. Evaluation,
    sampling, saving and stopping are ``hooks``, called with every event in the order listed; one that returns "stop"
    ends the run after the step. They see each step's ``train`` event, of which every ``log_every``-th is written, and a
    ``closing`` event (never written) after the last step. What ``run.guard`` finds wrong with a step is acted on by
    ``heed``, which may put the run back to an earlier step; GuardStop when it ends the run.
    """
    run.model, run.optimizer, run.hooks = model, optimizer, hooks
    settings, state = run.settings, run.state
    meter, timer = _Meter(run), run.timer
    with run.working(), levers_named(run.levers):
        if run.world.first:
            forget_after(run.path, state.step)
        run.emit("start", steps=settings.steps, **run.summary)
        while state.step < settings.steps and not run.check_stop():
            model.train()
            timer.begin_step()
            with timer.phase("data"):
                batch = batches(state.step)
            losses = with_fewer_rows(run, partial(forward_backward, run, objective, batch, model, optimizer))
            with timer.phase("optimizer"):
                norm = float(optimizer.gradient_norm())
            loss = sum(objective.weights[term] * value for term, value in losses.items())
            # fp16 finds its scale by overflowing now and then: such a step is left out, and nothing is wrong.
            overflowed = optimizer.overflowed and math.isfinite(loss)
            verdict = FINE if overflowed else run.guard.judge(state.step, loss, norm)
            if verdict.kind == "fine" and not overflowed:
                if settings.clip and norm > settings.clip:
                    optimizer.scale_gradients(settings.clip / norm)
                with timer.phase("optimizer"):
                    optimizer.step(settings.schedule(state.step) if settings.schedule else 1.0)
            state.step += 1
            state.tokens += batch.tokens
            timer.end_step()
            meter.step_done(batch.tokens)
            went_back = verdict.kind != "fine" and heed(run, verdict, batch, loss, norm)
            optimizer.zero_grad()
            if went_back:
                meter.resume()
                continue
            last = state.step == settings.steps
            run.emit(
                "train",
                write=last or state.step % settings.log_every == 0 or state.step == 1,
                loss=loss,
                losses=losses,
                lr=optimizer.lr,
                grad_norm=norm,
                tokens=state.tokens,
                **meter.speed(),
            )
            meter.resume()
        run.emit("closing", write=False)
        model.eval()
    return run


def forward_backward(
    run: Run, objective: Objective, batch: Batch, model: nn.Module, optimizer: Optimizer
) -> dict[str, float]:
    """Gradients of this process's rows into the optimizer's masters; returns each term's loss per item of the whole batch.

    Every term is divided by its count over the *global* batch, which every process knows without asking, so that the
    result depends neither on the micro-batch nor on the number of processes.
    """
    settings, parallel = run.settings, run.parallel
    counts = {term: count for term, count in objective.count(batch).items() if count > 0}
    if not counts:
        raise ValueError(f"the batch of step {run.state.step} holds nothing to learn: every term counts 0 items")
    own = parallel.own_rows(batch)
    micros = own.split(rows_of_a_pass(run) or own.rows)
    sums = dict.fromkeys(counts, 0.0)
    for index, micro in enumerate(micros, parallel.data_rank * len(micros)):
        torch.manual_seed(draw_seed(settings.seed, run.state.step, index))
        with run.timer.phase("forward"):
            terms = objective.loss(model, micro.to(run.device))
            parts = [objective.weights[term] * terms[term] / count for term, count in counts.items()]
        with run.timer.phase("backward"):
            optimizer.backward(torch.stack(parts).sum(), last=micro is micros[-1])
        for term in counts:
            sums[term] += float(terms[term].detach())
    totals = parallel.sum(list(sums.values()))
    return {term: total / count for (term, count), total in zip(counts.items(), totals, strict=True)}


def draw_seed(*numbers: int) -> int:
    """A 63-bit seed for the draws inside the net, from (seed, step, number of the micro-batch in the global batch)."""
    digest = hashlib.blake2b(b"".join(n.to_bytes(8, "little") for n in numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class _Meter:
    """Tokens per second of training alone: the time hooks take is left out of the speed, not of the run's seconds."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.mark = self.started = time.perf_counter()
        self.rate = 0.0

    def step_done(self, tokens: int) -> None:
        elapsed = time.perf_counter() - self.started
        rate = tokens / elapsed if elapsed > 0 else 0.0
        # A running mean over about 20 steps: one slow step should be seen, not taken for the speed.
        self.rate = rate if self.rate == 0.0 else 1 / (0.95 / self.rate + 0.05 / rate)

    def speed(self) -> dict[str, Any]:
        settings = self.run.settings
        values: dict[str, Any] = {"tokens_per_second": self.rate}
        if settings.flops_per_token and settings.peak_flops:
            values["mfu"] = self.rate * settings.flops_per_token / settings.peak_flops
        return values

    def resume(self) -> None:
        """After the hooks: the next step's time begins here."""
        now = time.perf_counter()
        self.run.state.seconds += now - self.mark
        self.mark = self.started = now
