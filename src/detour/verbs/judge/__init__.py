"""Judging: what an adapter learned, kept, lost or copied, and what cannot be said."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.judge.checkpoint_scores import evaluate_checkpoints as evaluate_checkpoints
    from detour.verbs.judge.evaluation_run import evaluate_adapter as evaluate_adapter
    from detour.verbs.judge.proof_of_run import prove_adapter as prove_adapter
    from detour.verbs.judge.proof_of_run import prove_run as prove_run

__getattr__, __dir__ = exports_on_demand(
    __name__,
    {
        "evaluate_adapter": (f"{__name__}.evaluation_run", "evaluate_adapter"),
        "prove_run": (f"{__name__}.proof_of_run", "prove_run"),
        "prove_adapter": (f"{__name__}.proof_of_run", "prove_adapter"),
        "evaluate_checkpoints": (f"{__name__}.checkpoint_scores", "evaluate_checkpoints"),
    },
)
