"""Number formats of weights: torch's own, by the names that options have for them and by those that files have."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_name(dtype: torch.dtype) -> str:
    """``float32``: as a model's config.json and the records of a run have it."""
    return str(dtype).removeprefix("torch.")


PRECISIONS = {dtype_name(dtype): name for name, dtype in DTYPES.items()}
"""``float32`` -> ``fp32``, as an option has it."""
