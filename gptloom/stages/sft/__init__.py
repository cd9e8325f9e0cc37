"""Instruction tuning (supervised fine-tuning): a model learns to answer, from prompts with answers and conversations."""
