"""How fast text becomes shards, beside ``encode_batch`` of the ``tokenizers`` library on the same text.

    python bench/tokenize.py [--data FILE ...] [--tokenizer gpt2-folder] [--repeats 5] [--json FILE]

Ours is the whole of ``gptloom data build``: finding, reading and checking the files, splitting, encoding, writing and
syncing the shards. The other side is handed the text in memory and only encodes it, in one call: once by documents, and
once in the pieces that ours cuts long documents into, which keeps all cores busy to the end. The three take turns in
one process, so that a busy moment of the machine meets all; medians are shown. The target is 90 % of the faster call.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import harness
import tokenizers
from harness import Check, Result

from gptloom.data.build import build_shards
from gptloom.data.documents import iter_documents
from gptloom.tokenizer import Tokenizer, load_tokenizer

TARGET_RATIO = 0.9


def read_texts(data: list[str]) -> tuple[list[str], list[str]]:
    """The text of ``data`` by documents, and by the pieces of them."""
    pieces = list(iter_documents(data))
    documents: list[list[str]] = [[]]
    for piece in pieces:
        documents[-1].append(piece.text)
        if piece.ends:
            documents.append([])
    return ["".join(texts) for texts in documents[:-1]], [piece.text for piece in pieces]


def build_seconds(data: list[str], tokenizer: Tokenizer) -> float:
    """Wall time of building shards of ``data`` in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build_shards(data, tokenizer, Path(folder) / "shards")
        return time.perf_counter() - start


def raw_seconds(texts: list[str], raw: tokenizers.Tokenizer) -> float:
    """Wall time of one ``encode_batch`` of all ``texts``, whose result is thrown away."""
    start = time.perf_counter()
    encodings = raw.encode_batch(texts, add_special_tokens=False)
    seconds = time.perf_counter() - start
    assert len(encodings) == len(texts)
    return seconds


def measure(data: list[str], reference: str, repeats: int) -> Result:
    """Medians of both sides over ``repeats`` turns, after one that fills the caches."""
    tokenizer = load_tokenizer(reference)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        raw = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    documents, pieces = read_texts(data)
    megabytes = sum(len(text.encode("utf-8")) for text in documents) / 1e6
    times: dict[str, list[float]] = {"shards": [], "documents": [], "pieces": []}
    for repeat in range(repeats + 1):
        turn = {
            "shards": build_seconds(data, tokenizer),
            "documents": raw_seconds(documents, raw),
            "pieces": raw_seconds(pieces, raw),
        }
        if repeat:
            for side, seconds in turn.items():
                times[side].append(seconds)
    speeds = {side: megabytes / statistics.median(seconds) for side, seconds in times.items()}
    sides = {
        "encode_batch, documents": {"MB/s": speeds["documents"]},
        "encode_batch, pieces": {"MB/s": speeds["pieces"]},
        "gptloom shards": {"MB/s": speeds["shards"]},
    }
    ratio = speeds["shards"] / max(speeds["documents"], speeds["pieces"])
    names = [Path(name).name for name in data]
    settings = {"data": names, "MB": round(megabytes, 1), "documents": len(documents), "repeats": repeats}
    check = Check("MB/s of the faster call", ratio, TARGET_RATIO, "×")
    return Result("tokenize", settings, {"text to ids": sides}, [check], raw={"seconds": times, "hash": tokenizer.hash})


def main() -> int:
    """Measures, prints, and returns 1 when the target is missed."""
    parser = argparse.ArgumentParser(description="time shard building against tokenizers.encode_batch")
    parser.add_argument(
        "--data", nargs="+", default=[str(harness.DATA / "english_novels")], help="text (default: the novels)"
    )
    parser.add_argument("--tokenizer", default=str(harness.DATA / "vocab_gpt2"), help="tokenizer (default: GPT-2's)")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each side (default: 5)")
    harness.add_json_option(parser)
    arguments = parser.parse_args()
    result = measure(arguments.data, arguments.tokenizer, arguments.repeats)
    return harness.finish(result, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
