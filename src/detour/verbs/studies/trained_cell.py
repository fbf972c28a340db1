"""One cell of a comparison: a run trained by ``detour train``, whose file draws the prompts of the question set."""

from __future__ import annotations

import contextlib
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from detour.adapter_files import read_adapter
from detour.bases.hardware import drawing_dtype
from detour.data.folder import Dataset
from detour.errors import Interrupted
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof_pictures import ProofRequest
from detour.files import remove_temporaries
from detour.specs import RunSpec, save_run_spec, to_toml
from detour.specs.places import written_from
from detour.specs.sources import parse
from detour.step_log import read_step_log
from detour.training.material import Material
from detour.training.memory import memory_errors_explained
from detour.training.observers import METRICS
from detour.training.recorded_pictures import remember_pictures
from detour.training.resume import SETTINGS, find_resume_point, refuse_changed_class
from detour.training.run_folder import RUN_STATE, read_state
from detour.training.run_record import RunRecord
from detour.training.text_adapter import trains_text
from detour.verbs.judge.side_pictures import Painter, SideSource
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.train.class_pictures import draw_class_pictures
from detour.verbs.train.fitting import fit_run
from detour.verbs.train.run import load_run_material, ship_run
from detour.verbs.train.run_plan import RunPlan
from detour.verbs.train.saved_run import WHOLE_NETWORK, product_of


@dataclass(frozen=True)
class _Encoded:
    """Pictures and texts of the runs that read the same.

    Attributes:
        key: settings on which they depend, as TOML.
        class_pictures: that the base drew.
        material: the caches.
    """

    key: str
    class_pictures: Dataset | None
    material: Material


@dataclass
class Workshop:
    """Trains the runs of a comparison and draws with them; what they share is loaded and encoded once.

    Attributes:
        plan: of any of the runs: base, and size, steps and guidance of the pictures, which all share.
    """

    plan: RunPlan
    _encoded: _Encoded | None = field(default=None, init=False)

    @cached_property
    def painter(self) -> Painter:
        """A fresh base that draws."""
        device = str(self.plan.spec.base.device)
        return Painter(
            folder=None,
            base=self.plan.base,
            spec=self.plan.spec,
            device=device,
            dtype=drawing_dtype("auto", device),
        )

    def train(self, plan: RunPlan, folder: Path, *, label: str, progress: ProgressFn) -> None:
        """Train a run, or finish one that was stopped; its folder is a run's without a proof.

        Raises:
            Interrupted: its state is saved, and the next call goes on from there.
            TrainingDiverged: the loss or a gradient is not finite.
        """
        going = _continued(plan, folder)
        if going is None:
            return
        plan = going
        spec = plan.spec
        record = RunRecord(folder, spec, plan.base.identity)
        with record.watched(), memory_errors_explained(spec, plan.base), _said_again():
            if plan.checkpoint is None:
                save_run_spec(folder / SETTINGS, spec)
                remember_pictures(folder, plan.dataset, holdout=plan.spec.data.holdout, seed=plan.spec.seed)
            plan, material = self._shown(plan, progress)
            if plan.checkpoint is not None:
                refuse_changed_class(folder, plan.checkpoint, plan.class_pictures)
            trained = fit_run(plan, material, folder, record, _steps_of(label, progress))
            record.check()
            _, best_step = ship_run(plan, trained, folder, silent)
            facts = {
                "step": trained.state.step,
                "loss": trained.loss,
                "val_loss": trained.validator.latest,
                "best_step": best_step,
                "validation": trained.validator.facts()["validation"],
                "seconds": trained.seconds,
                "parameters": sum(one.numel() for one in trained.attached.parameters()),
            }
            record.write("finished", facts)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    def _shown(self, plan: RunPlan, progress: ProgressFn) -> tuple[RunPlan, Material]:
        """The plan with its class pictures, and what the run reads, encoded once for all runs that read the same."""
        spec = plan.spec
        unread = RunSpec(name="").model_dump(by_alias=True, include={"name", "adapter", "train", "validate_"})
        key = to_toml(parse(RunSpec, spec.model_dump(by_alias=True) | unread))
        if self._encoded is not None and self._encoded.key == key:
            return replace(plan, class_pictures=self._encoded.class_pictures), self._encoded.material
        self._encoded = None  # two at once would take the memory of both
        plan = replace(plan, class_pictures=draw_class_pictures(spec, plan.base, progress=progress))
        material, _ = load_run_material(plan, silent)
        if not trains_text(spec):  # encoders that train are no longer the base's
            self._encoded = _Encoded(key, plan.class_pictures, material)
        return plan, material

    def draw(
        self, requests: tuple[ProofRequest, ...], shipped: tuple[RunSpec, Path] | None = None
    ) -> Pictures:
        """Draw requests with the base, or with what a run shipped, read back from its file.

        Args:
            requests: of the question set.
            shipped: settings and folder of the run.

        Returns:
            uint8 (requests, H, W, 3).
        """
        if shipped is None:
            return self.painter.draw(SideSource(), requests)
        spec, folder = shipped
        product = product_of(folder, spec)
        if spec.adapter.method == "full":
            return self.painter.draw(SideSource(network=product), requests)
        return self.painter.draw(SideSource(adapter=read_adapter(product)), requests)


def costs_of(folder: Path, spec: RunSpec) -> dict[str, float]:
    """What a finished run took: parameters, seconds a step (the median), KiB of its file, and its validation loss."""
    facts = read_state(folder)
    product = product_of(folder, spec)
    file = next(product.glob(f"*/{WHOLE_NETWORK}")) if product.is_dir() else product
    costs = {
        "parameters": float(facts["parameters"]),
        "file_kib": file.stat().st_size / 1024,
    }
    seconds = [line["seconds"] for line in read_step_log(folder / METRICS).lines if "seconds" in line]
    if seconds:
        costs["seconds_a_step"] = statistics.median(seconds)
    if facts.get("val_loss") is not None:
        costs["val_loss"] = float(facts["val_loss"])
    return costs


def _continued(plan: RunPlan, folder: Path) -> RunPlan | None:
    """The plan with the checkpoint that stands in the folder; ``None`` for a finished run.

    What stands there with other settings, or cannot be gone on with, is deleted: it is the comparison's own.
    """
    settings = folder / SETTINGS
    if (folder / RUN_STATE).exists() and settings.exists():
        same = settings.read_text(encoding="utf-8") == to_toml(written_from(plan.spec, folder))
        state = read_state(folder)["state"]
        if same and state == "finished":
            return None
        if same and state != "diverged":
            remove_temporaries(folder)
            return replace(plan, checkpoint=find_resume_point(folder).checkpoint)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return plan


@contextlib.contextmanager
def _said_again() -> Iterator[None]:
    """A stop says how to go on with the comparison, not with the run alone."""
    try:
        yield
    except Interrupted as error:
        raise type(error)("stopped; everything is saved. Give the same command again to go on.") from error


def _steps_of(label: str, progress: ProgressFn) -> ProgressFn:
    """Steps alone, under the cell's name; notes would be the same for every cell."""

    def tell(report: Progress) -> None:
        if report.stage == "training" and not report.note:
            progress(replace(report, stage=f"training {label}"))

    return tell
