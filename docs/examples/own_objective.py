"""A small GPT learns to sort digits: gptloom's loop with an objective and batches of one's own.

python docs/examples/own_objective.py
"""

from collections.abc import Mapping

import torch

from gptloom import fit
from gptloom.config.model import ModelConfig, preset
from gptloom.data.batch import Batch
from gptloom.model.transformer import Transformer
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.run import LoopSettings, Run
from gptloom.train.schedules import Schedule

DIGITS, ROWS, ARROW = 6, 64, 10  # ids 0 to 9 are the digits, 10 parts question and answer


def batches(step: int) -> Batch:
    """Rows like 4 1 3 → 1 3 4; the same step always gives the same batch. Only the answer counts."""
    draw = torch.Generator().manual_seed(step)
    question = torch.randint(10, (ROWS, DIGITS), generator=draw)
    row = torch.cat([question, torch.full((ROWS, 1), ARROW), question.sort(dim=1).values], dim=1)
    weights = torch.zeros(ROWS, 2 * DIGITS)
    weights[:, DIGITS:] = 1.0
    return Batch(ids=row[:, :-1], targets=row[:, 1:], weights=weights)


class Sorting:
    """-log p of the sorted digits, and a gentle pull of log Z towards 0 (PaLM's z-loss, section 5)."""

    weights: Mapping[str, float] = {"answer": 1.0, "log_z": 1e-4}

    def count(self, batch: Batch) -> dict[str, float]:
        items = float(batch.weights.sum())
        return {"answer": items, "log_z": items}

    def loss(self, model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        logits = model(batch.ids).float()
        log_z = logits.logsumexp(dim=-1)
        surprise = log_z - logits.gather(-1, batch.targets[..., None]).squeeze(-1)
        return {"answer": (surprise * batch.weights).sum(), "log_z": (log_z**2 * batch.weights).sum()}


def show(event: dict, run: Run) -> None:
    """A hook: it sees every event of the run, and ends it by returning "stop"."""
    if event["type"] == "train" and run.state.step % 50 == 0:
        print(f"step {run.state.step}: {event['losses']['answer']:.3f} nats a digit")


def main(folder: str = "runs/sorting", steps: int = 300) -> float:
    """Trains, and returns the share of digits sorted right in rows never trained on."""
    model = Transformer.initialised(ModelConfig(**{**preset("modern-nano"), "vocab_size": 11, "context": 16}), seed=0)
    settings = LoopSettings(steps=steps, schedule=Schedule(steps, warmup=steps // 10))
    run = Run.create(folder, settings, overwrite=True)
    fit(run, Sorting(), batches, model, Optimizer(model, OptimizerSettings(lr=1e-3)), [show])
    unseen = batches(10**6)
    with torch.no_grad():
        right = (model(unseen.ids).argmax(dim=-1) == unseen.targets)[unseen.weights > 0]
    return float(right.float().mean())


if __name__ == "__main__":
    print(f"{main():.1%} of the digits of unseen rows are right")
