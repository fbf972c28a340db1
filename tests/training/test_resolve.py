from pathlib import Path
from typing import Any

import pytest

from detour.adapters.targets import AdaptableLayer
from detour.bases.base import open_base
from detour.errors import ConfigError
from detour.specs import PictureSpec, RunSpec, load_run_spec, to_toml
from detour.specs.resolved import ResolvedPicture, ResolvedRun
from detour.specs.sources import with_changes
from detour.specs.strict import Spec
from detour.training.goals import GOALS
from detour.training.optimizers import D0_SHARE
from detour.training.resolving import changed_keys, check_rank, resolve, spread, training_dtype

AUTO_STEPS = {"train.steps": "auto"}
CAPTIONS = [f"caption {i}" for i in range(24)]


def resolved(base: str = "pocket", **flags: Any) -> RunSpec:
    spec = load_run_spec(flags={key.replace("__", "."): value for key, value in flags.items()})
    return resolve(spec, open_base(base), CAPTIONS, name="photos", device="cpu").spec


@pytest.mark.parametrize("goal", ["style", "subject"])
@pytest.mark.parametrize("base", ["pocket", "sd15", "sdxl", "sd35-medium", "flux-dev"])
def test_no_auto_is_left_and_resolving_again_changes_nothing(base: str, goal: str, tmp_path: Path) -> None:
    spec = resolved(base, goal=goal)
    text = to_toml(spec)
    assert '"auto"' not in text
    again = resolve(spec, open_base(base), CAPTIONS, name="other", device="cpu").spec
    assert again == spec
    (tmp_path / "resolved.toml").write_text(text)
    assert to_toml(load_run_spec(config=tmp_path / "resolved.toml")) == text


@pytest.mark.parametrize(("narrow", "wide"), [(ResolvedRun, RunSpec), (ResolvedPicture, PictureSpec)])
def test_resolved_settings_have_the_same_fields_in_the_same_order_and_none_can_be_auto(
    narrow: type[Spec], wide: type[Spec]
) -> None:
    assert list(narrow.model_fields) == list(wide.model_fields)
    for name, field in narrow.model_fields.items():
        assert "auto" not in repr(field.annotation), f"{narrow.__name__}.{name}"
        before = wide.model_fields[name].annotation
        if isinstance(before, type) and issubclass(before, Spec):
            assert issubclass(field.annotation, before)  # type: ignore[arg-type]
            test_resolved_settings_have_the_same_fields_in_the_same_order_and_none_can_be_auto(
                field.annotation,  # type: ignore[arg-type]
                before,
            )


def test_a_resolved_run_takes_no_auto() -> None:
    with pytest.raises(ConfigError, match=r"train\.steps"):
        with_changes(
            resolve(RunSpec(), open_base("pocket"), CAPTIONS, name="x", device="cpu").spec, AUTO_STEPS
        )


def test_what_the_user_says_wins() -> None:
    spec = resolved(adapter__rank=3, train__optim__lr=5e-5, train__steps=40, data__resolution=64, name="mine")
    assert (spec.adapter.rank, spec.adapter.alpha, spec.train.optim.lr) == (3, 3.0, 5e-5)
    assert (spec.train.schedule.warmup, spec.sample.every, spec.validate_.every) == (2, 10, 4)
    assert (spec.data.resolution, spec.name) == (64, "mine")


def test_goals_differ_and_say_so() -> None:
    spec = load_run_spec(flags={"goal": "subject"})
    result = resolve(spec, open_base("pocket"), CAPTIONS, name="photos", device="cpu")
    defaults = GOALS[("pocket", "subject")]
    assert result.spec.adapter.rank == defaults.rank
    assert result.spec.train.loss.caption_dropout == 0.0
    assert resolved().train.loss.caption_dropout == 0.1
    assert any(
        "'subject'" in note and f"rank {defaults.rank}" in note and defaults.why in note
        for note in result.notes
    )


def test_nothing_is_claimed_of_the_goal_when_the_user_set_it_all() -> None:
    flags = {
        "adapter.rank": 4,
        "adapter.targets": "attn",
        "train.optim.lr": 0.0,
        "train.steps": 5,
        "train.batch": 1,
        "train.loss.caption_dropout": 0.0,
    }
    notes = resolve(load_run_spec(flags=flags), open_base("pocket"), CAPTIONS, name="x", device="cpu").notes
    assert len(notes) == 1
    assert "lr is 0" in notes[0]


def test_few_pictures_are_all_trained_on() -> None:
    spec = resolve(RunSpec(), open_base("pocket"), CAPTIONS[:7], name="x", device="cpu").spec
    assert spec.data.holdout == 0.0
    assert resolved().data.holdout == 0.125


def test_sample_prompts_are_spread_over_the_captions() -> None:
    assert spread(CAPTIONS, 4) == ("caption 0", "caption 6", "caption 12", "caption 18")
    assert spread(["same", "same"], 4) == ("same",)
    assert spread([], 4) == ()


def test_cpu_takes_bf16_only_where_it_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    assert training_dtype("cpu") == "bf16"
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": False, "avx512_f": True})
    assert training_dtype("cpu") == "fp32"
    assert training_dtype("mps") == "fp32"


def test_changed_keys_are_named_with_both_values() -> None:
    before = resolved(train__steps=10)
    assert changed_keys(before, resolved(train__steps=10)) == []
    after = before.model_copy(update={"seed": 5})
    assert changed_keys(before, after) == ["seed (0 → 5)"]


def test_rank_beyond_some_layers_is_a_note_and_beyond_all_an_error() -> None:
    wide = AdaptableLayer(path="a.to_q", kind="linear", in_features=64, out_features=64)
    narrow = AdaptableLayer(path="conv_out", kind="conv", in_features=32, out_features=4, kernel=(3, 3))
    assert check_rank(8, "all", [wide]) == []
    (note,) = check_rank(8, "all", [wide, narrow])
    assert "conv_out (4)" in note
    assert "to_q" not in note
    with pytest.raises(ConfigError, match=r"can use more than 4\. Set --rank 4"):
        check_rank(8, "all", [narrow])


def test_prior_preservation_is_on_where_a_class_is_named() -> None:
    assert resolved(goal="subject").prior.use is False
    spec = resolved(goal="subject", prior__class_prompts=("a robot",))
    assert (spec.prior.use, spec.prior.guidance_scale) == (True, 2.0)
    assert resolved(prior__class_prompts=("a robot",), prior__use=False).prior.use is False


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"prior__use": True}, "no class is named"),
        ({"prior__class_prompts": ("a robot", " ")}, "an empty one"),
        (
            {"prior__class_prompts": ("photo of a sks robot, old",), "data__trigger": "Sks robot"},
            "'photo of a sks robot, old' has the trigger",
        ),
    ],
)
def test_a_class_that_cannot_be_preserved_is_refused(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolved(**flags)


def test_a_subject_without_a_class_is_told_what_will_drift() -> None:
    def notes(**flags: Any) -> str:
        spec = load_run_spec(flags={"goal": "subject", **flags})
        return " ".join(resolve(spec, open_base("pocket"), CAPTIONS, name="x", device="cpu").notes)

    assert "--class-prompt" in notes()
    assert "will drift" in notes(**{"prior.class_prompts": ("a robot",), "prior.use": False})
    assert "drift" not in notes(**{"prior.class_prompts": ("a robot",)})


def test_zero_terminal_snr_is_for_velocity_and_says_what_it_does_with_weights() -> None:
    with pytest.raises(ConfigError, match=r"predicts epsilon.*v-prediction base"):
        resolved(train__loss__zero_terminal_snr=True)
    flags = {"train.loss.zero_terminal_snr": True, "train.loss.weighting": "min_snr"}
    notes = resolve(load_run_spec(flags=flags), open_base("sd21"), CAPTIONS, name="x", device="cpu").notes
    assert any("last timestep" in note for note in notes)


def test_an_optimizer_brings_its_own_rate_schedule_and_decay_and_says_so() -> None:
    lion = resolved(train__optim__name="lion")
    assert lion.train.optim.lr == pytest.approx(0.2 * resolved().train.optim.lr)  # type: ignore[operator]
    assert (lion.train.optim.beta2, lion.train.schedule.kind) == (0.99, "cosine")
    free = resolved(train__optim__name="schedule_free")
    assert (free.train.optim.beta2, free.train.schedule.kind) == (0.999, "constant")
    assert resolved(train__optim__name="prodigy").train.optim.lr == 1.0
    given = resolved(train__optim__name="lion", train__optim__lr=3e-4, train__optim__beta2=0.95)
    assert (given.train.optim.lr, given.train.optim.beta2) == (3e-4, 0.95)
    spec = load_run_spec(flags={"train.optim.name": "lion"})
    notes = resolve(spec, open_base("pocket"), CAPTIONS, name="x", device="cpu").notes
    assert any("for Lion" in note and "fifth" in note for note in notes)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"train__schedule__kind": "cosine"}, r"'cosine' with optimizer 'schedule_free'"),
        ({"train__ema": 0.99}, r"average already"),
        ({"train__optim__beta1": 0.0}, r"divides by it"),
    ],
)
def test_averages_of_averages_are_refused(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolved(train__optim__name="schedule_free", **flags)


def test_prodigy_refuses_parts_with_rates_of_their_own_and_takes_one_with_every_method() -> None:
    with pytest.raises(ConfigError, match=r"up_rate is 16 with optimizer 'prodigy'"):
        resolved(train__optim__name="prodigy", train__optim__up_rate=16.0)
    with pytest.raises(ConfigError, match=r"text_encoder\.rate is 0\.5 with optimizer 'prodigy'"):
        resolved(train__optim__name="prodigy", adapter__text_encoder__rank=4)
    with pytest.raises(ConfigError, match=r"tokens\.rate is 5 with optimizer 'prodigy'"):
        resolved(train__optim__name="prodigy", adapter__tokens__words=("<bob>",))
    assert resolved(train__optim__name="prodigy", adapter__method="full").train.optim.lr == 1.0


def test_the_page_shows_the_values_of_every_goal() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    titles = {
        "pocket": "pocket", "pocket-flow": "pocket-flow", "sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL",
        "sd3": "SD 3", "flux": "Flux",
    }  # fmt: skip
    for (base, goal), row in GOALS.items():
        cells = (
            titles[base],
            goal,
            str(row.rank),
            row.targets,
            f"{row.lr:g}",
            str(row.steps),
            str(row.batch),
        )
        assert f"| {' | '.join(cells)} |" in page


def test_the_best_proof_of_nothing_is_refused() -> None:
    for nothing, words in (
        ({"adapter__method": "full"}, "keep no adapter"),
        ({"checkpoint__every": 0}, "nothing to choose from"),
        ({"evaluate__num_prompts": 0}, "no new prompts are drawn"),
    ):
        with pytest.raises(ConfigError, match=f"ship is best_proof, but .*{words}"):
            resolved(validate__ship="best_proof", **nothing)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"validate__patience": 2}, "patience is 2"),
        ({"validate__ship": "lowest_loss"}, "ship is lowest_loss"),
    ],
)
def test_the_best_of_nothing_is_refused(flags: dict[str, Any], words: str) -> None:
    for nothing in ({"data__holdout": 0.0}, {"validate__every": 0}):
        with pytest.raises(ConfigError, match=f"{words}, but nothing is validated"):
            resolved(**flags, **nothing)
    assert resolved(**flags).data.holdout == 0.125


def test_a_schedule_that_misses_the_run_is_refused_with_what_to_set() -> None:
    with pytest.raises(
        ConfigError, match=r"warm-up takes 50 steps and the run has 50.*Set train\.schedule\.warmup"
    ):
        resolved(train__steps=50, train__schedule__warmup=50)
    with pytest.raises(ConfigError, match=r"9 cycles in the 5 steps"):
        resolved(train__steps=5, train__schedule__kind="cosine_restarts", train__schedule__cycles=9)
    spec = load_run_spec(flags={"train.steps": 50, "train.schedule.warmup": 40})
    notes = resolve(spec, open_base("pocket"), CAPTIONS, name="x", device="cpu").notes
    assert any("The warm-up takes 40 of 50 steps" in note for note in notes)


def test_prodigy_begins_at_a_share_of_the_goals_rate_and_nothing_else_has_a_beginning() -> None:
    adamw = resolved().train.optim
    prodigy = resolved(train__optim__name="prodigy").train.optim
    assert prodigy.d0 == pytest.approx(D0_SHARE * adamw.lr)  # type: ignore[operator]
    assert adamw.d0 is None
    assert resolved(train__optim__name="prodigy", train__optim__d0=1e-5).train.optim.d0 == 1e-5
    for key, value in (("d0", 1e-3), ("d_coef", 2.0)):
        with pytest.raises(
            ConfigError, match=rf"train\.optim\.{key} is Prodigy's, and train\.optim\.name is 'adamw'"
        ):
            resolved(**{f"train__optim__{key}": value})


@pytest.mark.parametrize(
    ("base", "side_px", "shift"),
    [("sd35-medium", 1024, 3.0), ("sd35-medium", 512, 3.0), ("flux-dev", 512, 1.88), ("flux-dev", 1024, 3.16),
     ("flux-schnell", 1024, 1.0)],
)  # fmt: skip
def test_a_flow_trains_at_the_shift_that_it_draws_with(base: str, side_px: int, shift: float) -> None:
    loss = resolved(base, data__resolution=side_px).train.loss
    assert loss.shift == pytest.approx(shift, abs=5e-3)
    assert loss.timesteps == "logit_normal"
    assert resolved(base, train__loss__shift=2.5).train.loss.shift == 2.5


@pytest.mark.parametrize(
    ("base", "setting", "value", "words"),
    [
        ("flux-dev", "weighting", "min_snr", "'min_snr' is not for a rectified flow .*SNR.*cosmap"),
        ("sd35-medium", "weighting", "debiased", "'debiased' is not for a rectified flow"),
        ("sd15", "weighting", "cosmap", "'cosmap' is not for a variance-preserving process .*noise level"),
        ("sd15", "timesteps", "mode", "'mode' is not for a variance-preserving process"),
        ("sd15", "shift", 3.0, "moves the times of a rectified flow"),
        ("sd35-medium", "zero_terminal_snr", True, "ends in pure noise already"),
        ("flux-dev", "noise_offset", 0.05, "noise_offset.*rectified flow"),
    ],
)
def test_what_a_process_has_not_is_refused_by_name_and_cause(
    base: str, setting: str, value: object, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        resolved(base, **{f"train__loss__{setting}": value})


def test_a_size_that_makes_half_a_patch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"resolution is 520, but base 'flux-dev' needs a multiple of 16"):
        resolved("flux-dev", data__resolution=520)
    assert resolved("sd15", data__resolution=520).data.resolution == 520
