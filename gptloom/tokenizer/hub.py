"""Published vocabularies from the Hugging Face hub: the local cache first, else downloaded into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptloom.config.errors import Problem, UserError


@dataclass(frozen=True)
class Published:
    """A vocabulary on the hub.

    Attributes:
        title: whose it is, as a sentence begins with it.
        name: what gptloom calls it.
        repositories: the hub's names of it, the present one last; old names redirect, and either may be in a cache.
        files: what to fetch.
    """

    title: str
    name: str
    repositories: tuple[str, ...]
    files: tuple[str, ...]

    def fetch(self) -> list[Path]:
        """Paths of `files` in the hub's cache on this machine.

        Raises:
            UserError: not in the cache, and ``huggingface_hub`` or the network is missing.
        """
        try:
            import huggingface_hub  # an extra, and slow to import
        except ImportError as error:
            raise self._unreachable('huggingface_hub is not installed: pip install "gptloom[hub]"') from error
        for repository in self.repositories:
            cached = [huggingface_hub.try_to_load_from_cache(repository, file) for file in self.files]
            if all(isinstance(path, str) for path in cached):
                return [Path(path) for path in cached]
        try:
            return [Path(huggingface_hub.hf_hub_download(self.repositories[-1], file)) for file in self.files]
        except OSError as error:  # every failure of the hub's client is one: no network, offline mode, an HTTP status
            raise self._unreachable(f"the hub did not answer: {str(error).splitlines()[0]}") from error

    def _unreachable(self, reason: str) -> UserError:
        files = f"{' and '.join(self.files)} from https://huggingface.co/{self.repositories[-1]}/tree/main"
        return UserError(
            Problem(
                f"{self.title} vocabulary is not on this machine, and {reason}",
                where=f"tokenizer {self.name}",
                mend=f"download {files} into one folder, such as {self.name}/, and give --tokenizer {self.name}/",
            )
        )


def named(published: Sequence[Published], reference: str) -> Published | None:
    """The one that ``reference`` names, by its own name or a repository's."""
    return next((one for one in published if reference in (one.name, *one.repositories)), None)
