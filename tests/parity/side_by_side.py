"""What the parity tests share: random models on both sides, and how far apart their numbers lie."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may reach for a network

import torch
import transformers
from torch import Tensor, nn

from gptloom.config.model import ModelConfig
from gptloom.model.layouts import layout_for
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer

transformers.utils.logging.disable_progress_bar()


def randomise(model: nn.Module, std: float = 0.2) -> None:
    """Every number random, gains around 1 and all else around 0, so that no error hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)


def randomised(config: ModelConfig, dtype: torch.dtype, std: float = 0.2) -> Transformer:
    """Our model in evaluation mode, all of it random."""
    model = Transformer(config)
    randomise(model, std)
    return model.to(dtype).eval()


def open_theirs(folder: Path, dtype: torch.dtype) -> transformers.PreTrainedModel:
    """The model of ``folder`` by the class that its config.json names; a tensor missing or left over fails the test."""
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model, report = getattr(transformers, name).from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


def both(
    config: ModelConfig, dtype: torch.dtype, folder: Path, std: float = 0.2
) -> tuple[Transformer, transformers.PreTrainedModel]:
    """Our random model, and the one that transformers opens from the folder we write."""
    ours = randomised(config, dtype, std)
    save_model(folder / "ours", ours, config)
    return ours, open_theirs(folder / "ours", dtype)


def some_ids(config: ModelConfig, rows: int = 2) -> Tensor:
    """[rows, context] random tokens."""
    return torch.randint(config.vocab_size, (rows, config.context), generator=torch.Generator().manual_seed(3))


def padding(side: str, rows: int, length: int) -> Tensor:
    """[rows, length] bool, False at padding: the first row has none, each further one five more, on that ``side``."""
    count = length - 5 * torch.arange(rows)[:, None]
    index = torch.arange(length)[None]
    return index < count if side == "right" else index >= length - count


def block_outputs(model: Transformer, run: object) -> list[Tensor]:
    """What leaves each block but the last while ``run`` runs, then what it returns: transformers counts the same way."""
    seen: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: seen.append(out)) for block in model.blocks]
    hidden = run()  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    return [*seen[:-1], hidden]


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest number of the tensor where that is above 1.

    The residual stream of these random models reaches several hundred: an fp32 rounding there is 3e-5.
    """
    return float(((found - wanted).abs().max() / wanted.abs().max().clamp(min=1)).detach())


def gradients(ours: Transformer, theirs: nn.Module, idle: frozenset[str] = frozenset()) -> float:
    """The worst relative L2 distance of any parameter's gradient; those of ``idle`` must have none.

    A key's bias adds the same to all scores of a query, which a softmax does not see: where it is stored apart, its
    gradient is 0 but for roundings.
    """
    grads = {name: parameter.grad for name, parameter in ours.named_parameters()}
    found = dict(layout_for(ours.config).to_tensors(grads, ours.config))
    wanted = {layout_for(ours.config).spelled(name): parameter.grad for name, parameter in theirs.named_parameters()}
    assert set(found) == set(wanted)
    assert all(wanted.pop(name) is None for name in idle)
    assert all(grad is not None and grad.norm() > 0 for grad in wanted.values())
    largest = max(float(grad.norm()) for grad in wanted.values())
    rounding = 1e3 * largest * torch.finfo(found[layout_for(ours.config).embedding].dtype).eps
    worst = 0.0
    for name, grad in wanted.items():
        if name.endswith(".key.bias"):
            assert max(found[name].norm(), grad.norm()) <= rounding
        else:
            worst = max(worst, float((found[name] - grad).norm() / grad.norm()))
    return worst
