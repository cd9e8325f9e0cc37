"""Shard building beside ``tokenizers.encode_batch``: ``python bench/tokenize.py`` runs ``shard_speed.py``.

Python looks for modules in the folder of the script first, and one of its own is named ``tokenize``. So this file gives
way: when another script of this folder imports ``tokenize``, it gets the standard module.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ELSEWHERE = [entry for entry in sys.path if Path(entry).resolve() != HERE]

if __name__ == "__main__":
    sys.path[:] = [*ELSEWHERE, str(HERE)]
    import runpy

    runpy.run_path(str(HERE / "shard_speed.py"), run_name="__main__")
else:
    import importlib.machinery
    import importlib.util

    spec = importlib.machinery.PathFinder.find_spec(__name__, ELSEWHERE)
    assert spec is not None and spec.loader is not None, "the standard library is on the path"
    standard = importlib.util.module_from_spec(spec)
    sys.modules[__name__] = standard
    spec.loader.exec_module(standard)
