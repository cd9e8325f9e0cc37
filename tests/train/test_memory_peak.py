"""The peak of memory is that of one training, not of those before it in the same process."""

import pytest
import torch

from gptloom.train.memory import forget_peak, keep_freed_memory, peak_memory

MEGABYTE = 10**6


def test_what_was_freed_before_does_not_count():
    if not keep_freed_memory():
        pytest.skip("only glibc's malloc keeps what is freed when it is told to")
    device = torch.device("cpu")
    forget_peak(device)
    tensors = [torch.ones(250_000) for _ in range(200)]
    held = peak_memory(device)
    del tensors
    forget_peak(device)
    after = peak_memory(device)
    assert held is not None and after is not None
    assert held - after > 100 * MEGABYTE
