"""The names of what lies in a run folder, for all who write, read or watch it."""

from __future__ import annotations

CONFIG = "config.yaml"  # every option and where it came from
STATE = "state.json"  # how the run stands; in a checkpoint, where it goes on
EVENTS = "events.jsonl"
STOP = "stop"  # there while the run is asked to save and end
TOKENIZER = "tokenizer"
DATA = "data"  # the token shards of the text
CHECKPOINTS = "checkpoints"
MODEL = "model"  # in a checkpoint: its model folder
FINAL = "final"  # the model folder of a finished run
LINEAGE_FILE = "gptloom.json"  # in a model folder: where the model comes from
METRICS = "metrics.json"  # what a tuning reached
COMPARISON = "comparison"  # .json, .md and .png beside the runs that are compared
