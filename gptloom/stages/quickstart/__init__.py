"""The quickstart: every stage of a GPT's life on one small text, one after the other, in minutes."""

from gptloom.stages.quickstart.pipeline import STAGES, Quickstart, quickstart
from gptloom.stages.quickstart.stage import Context, Stage, StageResult

__all__ = ["STAGES", "Context", "Quickstart", "Stage", "StageResult", "quickstart"]
