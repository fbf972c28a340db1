"""Makes pocket-flow: ``python -m detour.pocket.pretrain.flow --work build/pocket-flow``.

Every stage can be stopped (Ctrl-C, SIGTERM) and started again; it takes up its state under ``--work``.
Without ``--stage`` all of them run in order.
"""

from __future__ import annotations

from pathlib import Path

import detour.pocket
from detour.pocket.pretrain.__main__ import run_from_command_line
from detour.pocket.pretrain.flow.run import STAGES, FlowPretraining
from detour.pocket.pretrain.run import Settings

PACKAGE = Path(detour.pocket.__file__).parent


def new_pretraining(work: Path, out: Path, settings: Settings) -> FlowPretraining:
    """The pre-training that starts from pocket's own folder in this package."""
    return FlowPretraining(work=work, out=out, settings=settings, pocket=PACKAGE / "weights")


def main() -> None:
    """Reads the command line and runs the stages."""
    run_from_command_line(
        new_pretraining,
        STAGES,
        prog="python -m detour.pocket.pretrain.flow",
        description=__doc__,
        work=Path("build/pocket-flow"),
        out=PACKAGE / "weights_flow",
    )


if __name__ == "__main__":
    main()
