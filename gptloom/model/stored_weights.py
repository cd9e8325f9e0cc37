"""The weights of a model folder by the names of our ``Transformer``, in whatever layout or pieces they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.model.folder import CONFIG_FILE
from gptloom.model.layouts import layout_for
from gptloom.model.layouts.layout import Rule
from gptloom.model.transformer import Transformer
from gptloom.model.weight_files import WeightFiles


class StoredWeights(Mapping[str, Tensor]):
    """The state of the model of ``folder``; inside ``with``, each tensor is read when it is asked for.

    What is read may be a map of the file: copy it before the file goes.

    Raises:
        UserError: damaged files, or tensors that are missing, left over or of the wrong shape (all of them named).
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._folder, self._config = folder, config
        self._files = WeightFiles(folder)
        with torch.device("meta"):
            self._empty = Transformer(config).state_dict()
        self._place: dict[str, tuple[Rule, int]] = {}  # our name -> what it is stored in, and as which of its parts
        self._stored: dict[str, str] = {}  # names as the layout spells them -> as the files do
        self._copies: dict[str, str] = {}  # what a tied head may be stored beside
        if self._files.sharded:  # by several processes of a training: under our names, nothing fused or transposed
            shapes = {name: tuple(tensor.shape) for name, tensor in self._empty.items()}
            self._check(shapes, {name: name for name in self._files.shapes})
            return
        layout = layout_for(config)
        self._stored = layout.canonical(self._files.shapes)
        shapes = {name: tuple(tensor.shape) for name, tensor in layout.to_tensors(self._empty, config)}
        self._copies = layout.copies(config)
        ignored = set(self._copies)
        if config.task_head is None:  # a body is wanted: a classifier beside it is left out
            ignored |= {name for name in self._stored if layout.is_task_tensor(name)}
        self._check(shapes, {name: spelled for name, spelled in self._stored.items() if name not in ignored})
        for rule in layout.rules(config):
            self._place |= {name: (rule, index) for index, name in enumerate(rule.ours)}

    def __enter__(self) -> StoredWeights:
        self._files.__enter__()
        self._check_copies()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[str]:
        return iter(self._empty)

    def __len__(self) -> int:
        return len(self._empty)

    def __getitem__(self, name: str) -> Tensor:
        if self._files.sharded:
            return self._files.read(name)
        rule, index = self._place[name]
        return rule.read(self._read(rule.theirs))[index]

    def box(self, name: str, offsets: Sequence[int], shape: Sequence[int]) -> Tensor:
        """The part of a tensor that is ``shape`` large from ``offsets`` on; no more of the files is read than that."""
        if self._files.sharded:
            return self._files.read(name, offsets, shape)
        return self[name][tuple(slice(start, start + size) for start, size in zip(offsets, shape, strict=True))]

    def empty(self, name: str) -> Tensor:
        """Shape and dtype of a tensor, on the meta device."""
        stored = name if self._files.sharded else self._stored[self._place[name][0].theirs]
        return self._empty[name].to(self._files.dtypes[stored])

    def _check(self, expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, str]) -> None:
        """``UserError`` naming every missing, left-over and misshapen tensor; ``stored``: name -> as the files spell it."""
        where = str(self._folder)
        problems = [Problem(f"tensor {name} is missing", where) for name in expected if name not in stored]
        for name in sorted(set(stored) - set(expected)):
            problems.append(Problem(f"tensor {stored[name]} belongs to nothing in {CONFIG_FILE}", where))
        for name, shape in expected.items():
            if name in stored and self._files.shapes[stored[name]] != shape:
                found = list(self._files.shapes[stored[name]])
                problems.append(Problem(f"tensor {name} is {found}; {CONFIG_FILE} asks for {list(shape)}", where))
        if problems:
            raise UserError(*problems)

    def _check_copies(self) -> None:
        """``UserError`` naming every tensor that config.json says is a copy of another and is not."""
        problems = []
        for copy, original in self._copies.items():
            if copy in self._stored and not torch.equal(self._read(copy), self._read(original)):
                text = f"tie_word_embeddings is true, but {copy} is stored and differs from {original}"
                mend = 'set "tie_word_embeddings": false there'
                problems.append(Problem(text, str(self._folder / CONFIG_FILE), mend))
        if problems:
            raise UserError(*problems)

    def _read(self, theirs: str) -> Tensor:
        return self._files.read(self._stored[theirs])
