"""What every way out has in common: its dtypes, what it cannot express, how it is written and who witnesses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.interop.export.source import StoredModel
from gptloom.interop.receipt import Prompt, Witness
from gptloom.interop.witness import our_outputs
from gptloom.model.stored_weights import StoredWeights
from gptloom.model.transformer import Transformer

TORCH_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
ROUNDING = {"f16": 0.02, "bf16": 0.1, "q8_0": 0.2}  # share of the largest logit that rounding the weights may move any


class Target(Protocol):
    """A format that models are exported to.

    Attributes:
        name: as ``--to`` has it.
        dtypes: as ``--dtype`` has them.
    """

    name: ClassVar[str]
    dtypes: ClassVar[tuple[str, ...]]

    def unfit(self, source: StoredModel) -> list[Problem]:
        """Everything about ``source`` that the format or its readers cannot express."""
        ...

    def notes(self, source: StoredModel, dtype: str | None) -> list[str]:
        """What the receiver should know: what stays behind, or is computed a little differently there."""
        ...

    def write(self, source: StoredModel, folder: Path, dtype: str | None) -> None:
        """Fills ``folder``, an empty one; ``dtype`` None keeps what is stored."""
        ...

    def reference(self, source: StoredModel, dtype: str | None) -> Witness:
        """The source with its weights rounded as ``write`` rounds them: equal to the result, but for how sums are taken."""
        ...

    def candidate(self, source: StoredModel, folder: Path) -> tuple[Witness, list[str]]:
        """The result, read back, and what the receipt should say of the reading."""
        ...


class Float16Weights(StoredWeights):
    """Weights on their way to float16: ``UserError`` names the first tensor with numbers that it cannot hold."""

    def __getitem__(self, name: str) -> Tensor:
        tensor = super().__getitem__(name)
        if tensor.numel() and not float(tensor.abs().max()) <= torch.finfo(torch.float16).max:
            what = f"tensor {name} has numbers that f16 cannot hold (beyond 65504, or not finite)"
            raise UserError(Problem(what, mend="--dtype bf16"))
        return tensor


def weights_for(source: StoredModel, dtype: str | None) -> StoredWeights:
    """The weights of ``source``, to be opened with ``with``, checked where ``dtype`` is narrow."""
    kind = Float16Weights if dtype == "f16" else StoredWeights
    return kind(source.folder, source.config)


class StateModel:
    """A witness whose weights come from anywhere, by our names; computed by our Transformer in float32."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        weights: Callable[[], AbstractContextManager[Callable[[str], Tensor]]],
        tokenize: Callable[[str], list[int]] | None,
    ) -> None:
        """``weights`` opens them and gives one by its name; ``tokenize`` gives a text's ids, None: there is no tokenizer."""
        self.name, self._config, self._weights, self._tokenize = name, config, weights, tokenize

    @torch.inference_mode()
    def answers(self, prompts: Sequence[Prompt]) -> list[dict[str, Tensor]]:
        """See ``Witness``."""
        with torch.device("meta"):
            model = Transformer(self._config)
        with self._weights() as fetch:
            state = {name: fetch(name).to(torch.float32, copy=True) for name in model.state_dict()}
        model.load_state_dict(state, assign=True)
        del state
        model.eval()
        return [our_outputs(model, torch.tensor([prompt.ids])) for prompt in prompts]

    def token_ids(self, texts: Sequence[str]) -> list[list[int]] | None:
        """See ``Witness``."""
        return None if self._tokenize is None else [self._tokenize(text) for text in texts]
