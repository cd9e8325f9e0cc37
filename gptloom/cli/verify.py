"""``gptloom verify-resume`` and ``gptloom rerun``: what is promised of resuming and repeating, proven on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.errors import EndedElsewhere, Problem, UserError
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved
from gptloom.config.verify import RerunOptions, VerifyResumeOptions

if TYPE_CHECKING:
    from gptloom.stages.compare_runs import Comparison
    from gptloom.stages.rerun import Repeated
    from gptloom.stages.verify_resume import Proof, Verified

DIFFERS = 1


def prove(resolved: Resolved[VerifyResumeOptions]) -> Verified:
    """Trains in peace, trains the same while killing and resuming it, and compares everything that the two left."""
    from gptloom.observe.terminal import quietly
    from gptloom.stages.on_disk import command_of
    from gptloom.stages.verify_resume import verify_resume

    model = resolved.options.model
    if model is not None and command_of(Path(model)) not in (None, "pretrain"):
        what = "this proves how a pretraining is resumed, and the run tuned a model"
        raise UserError(Problem(what, model, "a preset, or no model at all"))
    with quietly(resolved.options.quiet):
        return verify_resume(resolved)


def run_verify_resume(resolved: Resolved[VerifyResumeOptions], out: Output) -> int:
    """Proves that a training which is killed (SIGKILL) and resumed ends as one that never was.

    On as many processes everything must be equal to the bit, on another number within 1e-5 (fp32 and AdamW). The kills
    fall in training, saving, evaluating, sampling, finishing and preparing, one each, and then at random.
    """
    verified = prove(resolved)
    kills = [
        (f"{proof.before}:{proof.after}", number, kill.processes, kill.phase, kill.step)
        for proof in verified.proofs
        for number, kill in enumerate(proof.kills, 1)
    ]
    out.table(("pair", "kill", "processes", "while", "step"), kills, right=("kill", "processes", "step"))
    for proof in verified.proofs:
        if proof.comparison is not None:
            out.result()
            _show(proof.comparison, f"{proof.before}:{proof.after}", out)
    out.result()
    for proof in verified.proofs:
        label = "proven" if proof.holds else "NOT PROVEN"
        out.result(f"{proof.before}:{proof.after}  {len(proof.kills)} kills  {label}: {proof.verdict}")
    if verified.folder is not None:
        out.say(f"the runs are kept in {verified.folder}")
    out.document(
        {
            "holds": verified.holds,
            "folder": None if verified.folder is None else str(verified.folder),
            "proofs": [_as_json(proof) for proof in verified.proofs],
        }
    )
    return 0 if verified.holds else DIFFERS


def repeat(resolved: Resolved[RerunOptions]) -> Repeated:
    """Trains once more as a finished run did, into a new folder; with ``verify`` the two are compared."""
    from gptloom.observe.terminal import quietly
    from gptloom.stages.rerun import rerun

    with quietly(resolved.options.quiet):
        return rerun(resolved)


def run_rerun(resolved: Resolved[RerunOptions], out: Output) -> int:
    """Repeats a finished run from its config.yaml, with the same text, and compares the two with --verify.

    On the same machine, threads and versions they must be equal to the bit; else their losses within the tolerance.
    """
    from gptloom.stages.joining import speaks

    repeated = repeat(resolved)
    if not speaks():
        raise EndedElsewhere(0)
    compared = repeated.comparison
    out.result(str(repeated.run.path))
    for what in repeated.changed:
        out.result(f"not as it was: {what}")
    if compared is not None:
        _show(compared, "", out)
        out.result(repeated.verdict)
    elif resolved.options.verify:
        out.say(f"\nnot compared, since it was stopped; next:  gptloom resume {repeated.run.path}")
    out.document(
        {
            "run": str(repeated.run.path),
            **vars(repeated.run.state),
            "original": str(repeated.original),
            "changed": list(repeated.changed),
            "tolerance": repeated.tolerance,
            "holds": None if compared is None else repeated.holds,
            "parts": None if compared is None else _parts(compared),
        }
    )
    return 0 if repeated.holds else DIFFERS


def _show(comparison: Comparison, title: str, out: Output) -> None:
    rows = [
        (part.name, f"{part.items:,}", "equal to the bit" if part.distance == 0 else f"{part.distance:.1e}", part.where)
        for part in comparison.parts
    ]
    out.table((title or "compared", "items", "largest difference", "at"), rows, right=("items",))


def _as_json(proof: Proof) -> dict[str, Any]:
    return {
        "from": proof.before,
        "to": proof.after,
        "kills": [vars(kill) for kill in proof.kills],
        "tolerance": proof.tolerance,
        "holds": proof.holds,
        "verdict": proof.verdict,
        "parts": None if proof.comparison is None else _parts(proof.comparison),
    }


def _parts(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {"name": part.name, "items": part.items, "largest_difference": part.distance, "at": part.where or None}
        for part in comparison.parts
    ]


COMMANDS = {
    "verify-resume": Command(VerifyResumeOptions, run_verify_resume),
    "rerun": Command(RerunOptions, run_rerun),
}
verify_resume = python_function("verify_resume", VerifyResumeOptions, prove)
rerun = python_function("rerun", RerunOptions, repeat)
