"""How fast text becomes shards, beside ``encode_batch`` of the ``tokenizers`` library on the same text.

    python bench/tokenize.py [--data FILE ...] [--tokenizer gpt2-folder] [--repeats 5] [--json]

Ours is the whole of ``gptloom data build``: finding, reading and checking the files, splitting, encoding, writing and
syncing the shards. The other side is handed the documents in memory and only encodes them, in one call. The two take
turns in one process, so that a busy moment of the machine meets both; medians are shown. The target is 90 %.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import tokenizers

from gptloom.data.build import build_shards
from gptloom.data.documents import iter_documents
from gptloom.tokenizer import Tokenizer, load_tokenizer

TARGET_RATIO = 0.9
DATA = Path(os.environ.get("GPTLOOM_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def read_whole(data: list[str]) -> list[str]:
    """The documents of ``data``, each in one string."""
    texts = [""]
    for piece in iter_documents(data):
        texts[-1] += piece.text
        if piece.ends:
            texts.append("")
    return texts[:-1]


def build_seconds(data: list[str], tokenizer: Tokenizer) -> float:
    """Wall time of building shards of ``data`` in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build_shards(data, tokenizer, Path(folder) / "shards")
        return time.perf_counter() - start


def raw_seconds(texts: list[str], raw: tokenizers.Tokenizer) -> float:
    """Wall time of one ``encode_batch`` of all documents, whose result is thrown away."""
    start = time.perf_counter()
    encodings = raw.encode_batch(texts, add_special_tokens=False)
    seconds = time.perf_counter() - start
    assert len(encodings) == len(texts)
    return seconds


def measure(data: list[str], reference: str, repeats: int) -> dict[str, object]:
    """Medians of both sides over ``repeats`` turns, after one that fills the caches."""
    tokenizer = load_tokenizer(reference)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        raw = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    texts = read_whole(data)
    megabytes = sum(len(text.encode("utf-8")) for text in texts) / 1e6
    times: dict[str, list[float]] = {"shards": [], "encode_batch": []}
    for repeat in range(repeats + 1):
        turn = {"shards": build_seconds(data, tokenizer), "encode_batch": raw_seconds(texts, raw)}
        if repeat:
            for side, seconds in turn.items():
                times[side].append(seconds)
    speeds = {side: megabytes / statistics.median(seconds) for side, seconds in times.items()}
    ratio = speeds["shards"] / speeds["encode_batch"]
    return {
        "megabytes_per_second": speeds,
        "ratio": ratio,
        "target_ratio": TARGET_RATIO,
        "reached": ratio >= TARGET_RATIO,
        "seconds": times,
        "megabytes": megabytes,
        "documents": len(texts),
        "tokenizer": tokenizer.hash,
        "tokenizers": tokenizers.__version__,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "machine": platform.platform(),
    }


def main() -> int:
    """Measures, prints, and returns 1 when the target is missed."""
    parser = argparse.ArgumentParser(description="time shard building against tokenizers.encode_batch")
    parser.add_argument("--data", nargs="+", default=[str(DATA / "english_novels")], help="text (default: the novels)")
    parser.add_argument("--tokenizer", default=str(DATA / "vocab_gpt2"), help="tokenizer (default: GPT-2's)")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each side (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    result = measure(arguments.data, arguments.tokenizer, arguments.repeats)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        speeds = result["megabytes_per_second"]
        assert isinstance(speeds, dict)
        print(f"text              {result['megabytes']:8.1f} MB in {result['documents']} documents")
        print(f"encode_batch      {speeds['encode_batch']:8.2f} MB/s (median of {arguments.repeats})")
        print(f"gptloom shards    {speeds['shards']:8.2f} MB/s")
        print(f"ratio             {result['ratio']:8.3f} (target {TARGET_RATIO})")
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
