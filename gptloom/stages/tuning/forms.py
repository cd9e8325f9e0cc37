"""How a fine-tuning's weights are stored: as a model folder, another library's body, or only what was learned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from gptloom.config.model import ModelConfig
from gptloom.config.run_folder import LINEAGE_FILE
from gptloom.interop.bodies import save_foreign
from gptloom.interop.foreign import ForeignModel
from gptloom.interop.peft import read_adapter, write_adapter
from gptloom.model.checksum import file_sum
from gptloom.model.folder import replaced_folder, write_json
from gptloom.model.lora import LoraConfig
from gptloom.model.store import LINEAGE_VERSION
from gptloom.model.weight_files import WeightFiles
from gptloom.model.weight_writer import write_tensors
from gptloom.train.form import About, TensorsInMemory

LEARNED = "learned.safetensors"


class LearnedOnly:
    """What is trained, under its own names: adapters and head. All else is in the base, which the run names."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)

    def keeps(self, name: str) -> bool:
        return name in self.names

    def write(self, folder: Path, state: Mapping[str, Tensor], about: About) -> dict[str, str]:
        with replaced_folder(folder, marks=(LEARNED,)) as partial:
            digest = write_tensors(partial / LEARNED, dict(state), state.__getitem__, {"format": "pt"})
            write_json(partial / LINEAGE_FILE, {"version": LINEAGE_VERSION, "lineage": dict(about.lineage)})
        return {LEARNED: digest}

    @contextmanager
    def open(self, folder: Path) -> Iterator[TensorsInMemory]:
        with WeightFiles(folder, [LEARNED]) as files:
            yield TensorsInMemory({name: files.read(name).clone() for name in files.shapes})


class AdapterFolder:
    """Adapters and head as PEFT has them, on a base that the folder names: each checkpoint is a model on its own."""

    def __init__(self, names: Collection[str], config: ModelConfig, lora: LoraConfig, base: Path) -> None:
        self.names, self.config, self.lora, self.base = frozenset(names), config, lora, base

    def keeps(self, name: str) -> bool:
        return name in self.names

    def write(self, folder: Path, state: Mapping[str, Tensor], about: About) -> dict[str, str]:
        write_adapter(
            folder,
            state,
            self.config,
            self.lora,
            str(self.base.resolve()),
            tokenizer=about.tokenizer,
            lineage=about.lineage,
            task=about.task,
            chat=about.chat,
        )
        return {path.name: file_sum(path) for path in sorted(folder.glob("*.safetensors"))}

    @contextmanager
    def open(self, folder: Path) -> Iterator[TensorsInMemory]:
        yield TensorsInMemory(read_adapter(folder, self.config)[1])


class ForeignBody:
    """A body of another library, as that library lays it out, and the head beside it."""

    def __init__(self, model: ForeignModel, reopen: Callable[[Path], ForeignModel]) -> None:
        self.model, self.reopen = model, reopen

    def keeps(self, name: str) -> bool:
        return True

    def write(self, folder: Path, state: Mapping[str, Tensor], about: About) -> dict[str, str]:
        assert about.tokenizer is not None
        return save_foreign(
            folder, state, self.model, tokenizer=about.tokenizer, lineage=about.lineage, task=about.task
        )

    @contextmanager
    def open(self, folder: Path) -> Iterator[TensorsInMemory]:
        yield TensorsInMemory({name: tensor.detach() for name, tensor in self.reopen(folder).named_parameters()})
