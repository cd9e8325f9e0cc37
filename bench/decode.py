"""How fast GPT-2 124M writes one sequence in bf16, beside ``generate`` of ``transformers``.

    python bench/decode.py [--prompt-tokens 64] [--new-tokens 128] [--repeats 5] [--threads N] [--json FILE]

Both sides have random weights of the same shapes in bf16, get the same prompt, and write the same number of tokens
greedily in one row; the time is that of the whole call, prefill included, with compiling done before and told apart. All
sides take turns in one process, so that a busy moment of the machine meets each; medians are shown. The target is twice
the tokens/s of ``transformers``. The last column is the share of what the memory allows: a token reads every weight once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import harness
import torch
import transformers
from harness import Check, Result

from gptloom.config.generate import SamplingOptions
from gptloom.config.model import ModelConfig, preset
from gptloom.generation.engine import Engine
from gptloom.generation.weights import InferenceModel, Precision, prepare
from gptloom.model.counting import count_parameters
from gptloom.model.transformer import Transformer

TARGET_RATIO = 2.0
PEER = "transformers bf16"
OURS = "gptloom bf16 compiled"


class AnyVocabulary:
    """Random weights write no text: no token ends a completion, none has bytes."""

    eot_id = -1

    def token_bytes(self, token_id: int) -> bytes:
        return b""


def our_side(model: InferenceModel, prompt: list[int], new_tokens: int) -> Callable[[], None]:
    """A call that writes ``new_tokens`` after ``prompt`` through the engine."""
    options = SamplingOptions(temperature=0, max_tokens=new_tokens)

    def write() -> None:
        [[generated]] = Engine(model, AnyVocabulary(), slots=1).run([(prompt, options)])
        assert len(generated.ids) == new_tokens

    return write


def their_side(config: ModelConfig, prompt: list[int], new_tokens: int) -> Callable[[], None]:
    """The same through ``transformers``."""
    sizes = {"n_embd": config.d_model, "n_layer": config.n_layer, "n_head": config.n_head}
    theirs = transformers.GPT2Config(vocab_size=config.vocab_size, n_positions=config.context, **sizes)
    model = transformers.GPT2LMHeadModel(theirs).to(torch.bfloat16).eval()
    ids = torch.tensor([prompt])

    def write() -> None:
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        assert out.shape[1] == len(prompt) + new_tokens

    return write


def read_bandwidth() -> float:
    """Bytes per second at which a sum reads memory: the best of five."""
    numbers = torch.ones(50_000_000)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - start)
    return numbers.numel() * 4 / min(seconds[1:])


def build_sides(prompt_tokens: int, new_tokens: int) -> tuple[dict[str, Callable[[], None]], dict[str, int], float]:
    """The calls to time, the bytes that each reads for a token, and the seconds that compiling ours took."""
    config = ModelConfig(**preset("gpt2"))
    body = Transformer.initialised(config, seed=0)
    prompt = torch.randint(0, config.vocab_size, (prompt_tokens,)).tolist()
    weights = count_parameters(config).multiplied
    sides, sizes, compiling = {}, {}, 0.0
    plans: list[tuple[str, Precision, bool]] = [
        (OURS, "bf16", True),
        ("gptloom bf16", "bf16", False),
        ("gptloom int8 compiled", "int8", True),
        ("gptloom int8", "int8", False),
    ]
    for name, precision, compiled in plans:
        model = prepare(body, precision)
        start = time.perf_counter()
        if compiled and not model.compile():
            continue
        compiling = time.perf_counter() - start if name == OURS else compiling
        sides[name] = our_side(model, prompt, new_tokens)
        sizes[name] = weights * (1 if precision == "int8" else 2)
    sides[PEER], sizes[PEER] = their_side(config, prompt, new_tokens), 2 * weights
    return sides, sizes, compiling


def measure(prompt_tokens: int, new_tokens: int, repeats: int) -> Result:
    """Medians of all sides over ``repeats`` turns, after one that warms up."""
    sides, sizes, compiling = build_sides(prompt_tokens, new_tokens)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, write in sides.items():
            start = time.perf_counter()
            write()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    bandwidth = read_bandwidth()
    speeds = {name: new_tokens / statistics.median(values) for name, values in seconds.items()}
    best = OURS if OURS in speeds else "gptloom bf16"
    ratio = speeds[best] / speeds[PEER]
    table = {
        name: {"tokens/s": speed, "% of the memory's speed": 100 * speed * sizes[name] / bandwidth}
        for name, speed in sorted(speeds.items(), key=lambda item: -item[1])
    }
    threads = torch.get_num_threads()
    settings = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "repeats": repeats, "threads": threads}
    check = Check(f"{best}, tokens/s of {PEER}", ratio, TARGET_RATIO, "×")
    notes = [f"memory reads at {bandwidth / 1e9:.0f} GB/s", f"compiling took {compiling:.1f} s"]
    return Result("decode", settings, {"one sequence": table}, [check], notes, {"seconds": seconds})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads of both sides (default: torch's own)")
    harness.add_json_option(parser)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    return harness.finish(measure(arguments.prompt_tokens, arguments.new_tokens, arguments.repeats), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
