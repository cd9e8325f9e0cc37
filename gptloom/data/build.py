"""Documents to token shards, on all cores, in bounded memory, and on from where it was broken off.

A built folder holds ``train/*.bin``, ``valid/*.bin`` and ``manifest.json``. The work is divided into units: one large
file, or a run of small ones; a unit is one shard a side, and the manifest is written anew after each. Every document is
followed by end-of-text; ``<|endoftext|>`` spelled in a text stays text. With a tokenizer that has [MASK] the text is
encoded sentence by sentence and their lengths are written beside each shard (``gptloom.data.sentences``).
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from gptloom.config.errors import Problem, UserError
from gptloom.data.built import Built, Manifest, ShardEntry, Unit, load_built, read_manifest, write_manifest
from gptloom.data.corpus import Corpus, CorpusFile, CorpusRequest, request_corpus, survey
from gptloom.data.documents import PIECE_CHARACTERS, Document
from gptloom.data.sentences import DOCUMENT_END, SentenceWriter, sentence_file, split_sentences
from gptloom.data.shards import ShardWriter, id_dtype
from gptloom.data.split import TRAIN, VALID, SplitChoice
from gptloom.tokenizer import Tokenizer

UNIT_BYTES = 64 << 20  # of text: small enough to lose little when broken off, large enough for few shards
ENCODERS = 2  # while the ids of one batch are copied out, the cores tokenize the next
FOLDERS = {TRAIN: "train", VALID: "valid"}

Progress = Callable[[int, int], None]  # (bytes of text done, bytes of text in all)
Sided = tuple[int, Document]  # a document, or a piece of one, with the side it belongs to


@dataclass
class EncodedSide:
    """What one side got from a batch of documents."""

    ids: array[int]
    sentences: array[int]  # tokens of each, 0 after a document; empty for a tokenizer without [MASK]
    n_bytes: int = 0  # UTF-8 bytes of the text


def build_shards(
    data: Sequence[str],
    tokenizer: Tokenizer,
    out: Path,
    *,
    valid: Sequence[str] = (),
    split: SplitChoice = "auto",
    valid_fraction: float = 0.1,
    text_column: str | None = None,
    document_separator: str | None = None,
    encoding: str = "utf-8",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Builds ``out`` from files, folders and globs; goes on where it was broken off, does nothing where it is done.

    Raises ``UserError``: everything wrong with the data (before any work), or an ``out`` that holds shards of other
    inputs and ``overwrite`` is not given.
    """
    request = request_corpus(
        data,
        valid=valid,
        split=split,
        valid_fraction=valid_fraction,
        text_column=text_column,
        document_separator=document_separator,
        encoding=encoding,
    )
    found = _reusable(request, tokenizer, out, overwrite)
    if found is not None and found.finished and all(_is_there(out, unit, tokenizer) for unit in found.units):
        return load_built(out)
    return _build(survey(request), tokenizer, out, found, progress)


def build_corpus(corpus: Corpus, tokenizer: Tokenizer, out: Path) -> Built:
    """``build_shards`` for a corpus that was surveyed already (to choose a size, to train the tokenizer)."""
    found = _reusable(corpus.request, tokenizer, out, overwrite=False)
    return _build(corpus, tokenizer, out, found, None)


def _reusable(request: CorpusRequest, tokenizer: Tokenizer, out: Path, overwrite: bool) -> Manifest | None:
    """The manifest of ``out`` when it was made from the same inputs; shards of others are refused, or removed."""
    found = read_manifest(out)
    if found is not None and (found.inputs, found.tokenizer) == (request.fingerprint, tokenizer.hash):
        return found
    shards = [shard for folder in FOLDERS.values() for shard in sorted((out / folder).glob("*.bin"))]
    if shards and not overwrite:
        origin = "unknown origin"
        if found is not None:
            origin = "another tokenizer" if found.tokenizer != tokenizer.hash else "other data or options"
        raise UserError(Problem(f"holds shards of {origin}", where=str(out), mend="--overwrite, or another --out"))
    for shard in shards:
        shard.unlink()
        sentence_file(shard).unlink(missing_ok=True)
    return None


def _is_there(out: Path, unit: Unit, tokenizer: Tokenizer) -> bool:
    """Whether the files that the manifest implies exist (they got their names when they were complete)."""
    shards = [out / entry.file for entry in unit.shards()]
    wanted = shards if tokenizer.mask_id is None else shards + [sentence_file(shard) for shard in shards]
    return all(file.exists() for file in wanted)


def _build(corpus: Corpus, tokenizer: Tokenizer, out: Path, found: Manifest | None, progress: Progress | None) -> Built:
    earlier = found.units if found is not None and found.hash == corpus.hash else ()
    manifest = Manifest(
        inputs=corpus.request.fingerprint,
        tokenizer=tokenizer.hash,
        rule=corpus.rule,
        hash=corpus.hash,
        n_documents=corpus.n_documents,
        units=earlier,
        validates=bool(corpus.request.valid_sources) or corpus.request.split != "none",
    )
    _make_folders(out)
    write_manifest(out, manifest)
    done = 0

    def report(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if progress is not None:
            progress(done, corpus.n_bytes)

    for number, files in enumerate(_divide(corpus.files)):
        if number < len(earlier) and _is_there(out, earlier[number], tokenizer):
            unit = earlier[number]
            report(sum(file.n_bytes for file in files))
        else:
            unit = _build_unit(files, tokenizer, out, f"{number:05}.bin", report)
        manifest = manifest.model_copy(update={"units": (*manifest.units[:number], unit, *earlier[number + 1 :])})
        write_manifest(out, manifest)
    write_manifest(out, manifest.model_copy(update={"finished": True}))
    return load_built(out)


def _make_folders(out: Path) -> None:
    try:
        for folder in FOLDERS.values():
            (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(Problem(f"cannot be written: {error.strerror}", where=str(out), mend="another --out")) from None


def _divide(files: Sequence[CorpusFile]) -> list[list[CorpusFile]]:
    """Files in order, gathered into units until one has ``UNIT_BYTES`` or the weight changes."""
    units: list[list[CorpusFile]] = []
    room = 0
    for file in files:
        if room <= 0 or units[-1][0].source.weight != file.source.weight:
            units.append([])
            room = UNIT_BYTES
        units[-1].append(file)
        room -= file.n_bytes
    return units


def _build_unit(
    files: Sequence[CorpusFile], tokenizer: Tokenizer, out: Path, name: str, report: Callable[[int], None]
) -> Unit:
    """Writes the shards of one unit; a shard without any ids is not kept."""
    documents = chain.from_iterable(file.documents() for file in files)
    dtype = id_dtype(tokenizer.vocab_size)
    with ExitStack() as stack:
        writers = {
            side: stack.enter_context(ShardWriter(out / folder / name, dtype, tokenizer.hash))
            for side, folder in FOLDERS.items()
        }
        sentences = {}
        if tokenizer.mask_id is not None:
            for side, writer in writers.items():
                sentences[side] = stack.enter_context(SentenceWriter(writer.path))
        for encoded in _in_order(_batches(documents), tokenizer):
            for side, part in encoded.items():
                writers[side].append(np.frombuffer(part.ids, dtype=dtype), part.n_bytes)
                if part.sentences:
                    sentences[side].append(np.frombuffer(part.sentences, dtype=part.sentences.typecode))
            report(sum(part.n_bytes for part in encoded.values()))
    entries = {side: _entry(out, writer) for side, writer in writers.items()}
    return Unit(weight=files[0].source.weight, train=entries[TRAIN], valid=entries[VALID])


def _entry(out: Path, writer: ShardWriter) -> ShardEntry | None:
    if writer.n_tokens == 0:
        writer.path.unlink()
        sentence_file(writer.path).unlink(missing_ok=True)
        return None
    file = writer.path.relative_to(out).as_posix()
    return ShardEntry(file=file, n_tokens=writer.n_tokens, n_bytes=writer.n_bytes or 0)


# ---- encoding --------------------------------------------------------------------------------------------------------


def _batches(documents: Iterable[Sided]) -> Iterator[list[Sided]]:
    """Documents in batches of a few pieces' worth of text for each core."""
    enough = 4 * (os.cpu_count() or 1) * PIECE_CHARACTERS
    batch: list[Sided] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document[1].text)
        if size >= enough:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _in_order(batches: Iterable[list[Sided]], tokenizer: Tokenizer) -> Iterator[dict[int, EncodedSide]]:
    """The encoded batches in order; the next ones are read and encoded while one is written."""
    with ThreadPoolExecutor(ENCODERS) as pool:
        waiting: deque[Future[dict[int, EncodedSide]]] = deque()
        for batch in batches:
            waiting.append(pool.submit(_encode, batch, tokenizer))
            if len(waiting) > ENCODERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _encode(batch: Sequence[Sided], tokenizer: Tokenizer) -> dict[int, EncodedSide]:
    """The ids of a batch by side, with end-of-text after each document that ends in it."""
    code = {2: "H", 4: "I"}[id_dtype(tokenizer.vocab_size).itemsize]
    sides = {side: EncodedSide(array(code), array("I")) for side in FOLDERS}
    texts = [document.text for _, document in batch]
    for (side, document), sentences in zip(batch, _encode_sentences(texts, tokenizer), strict=True):
        part = sides[side]
        for ids in sentences:
            part.ids.extend(ids)
        part.n_bytes += len(document.text) if document.text.isascii() else len(document.text.encode("utf-8"))
        if document.ends:
            part.ids.append(tokenizer.eot_id)
        if tokenizer.mask_id is not None:
            part.sentences.extend(len(ids) for ids in sentences if ids)
            if document.ends:
                part.sentences.append(DOCUMENT_END)
    return {side: part for side, part in sides.items() if part.ids}


def _encode_sentences(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[list[int]]]:
    """The ids of each text by sentence; the whole text counts as one for a tokenizer without [MASK].

    Where a piece of a long document ends, a sentence ends: seldom where the author ended one, once in
    ``PIECE_CHARACTERS`` at most.
    """
    if tokenizer.mask_id is None:
        return [[ids] for ids in tokenizer.encode_batch(texts)]
    sentences = [split_sentences(text) for text in texts]
    encoded = iter(tokenizer.encode_batch(list(chain.from_iterable(sentences))))
    return [[next(encoded) for _ in own] for own in sentences]
