"""``gptloom data prepare``: looks through a file of examples, explains, repairs, and writes it for training.

``flow`` is the course of it. ``load`` and ``columns`` understand the file; ``general``, ``pairs`` and ``affixes`` are the
checks; ``write`` writes, and ``next_steps`` says what comes then.
"""

from gptloom.data.prepare.finding import Finding, Remedy
from gptloom.data.prepare.flow import Desk, Prepared, prepare
from gptloom.data.prepare.reader import Reader

__all__ = ["Desk", "Finding", "Prepared", "Reader", "Remedy", "prepare"]
