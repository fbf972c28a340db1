"""``detour safety measure``: scores once, combinations from them, and a stopped call goes on."""

import json
from pathlib import Path

import pytest

from detour.errors import ConfigError, DataError
from detour.safety.decision import Finding
from detour.safety.policy import Policy
from detour.safety.policy_file import PolicyFile
from detour.verbs.safety import measuring, recording
from detour.verbs.safety.cases import SafetyCase, read_cases
from detour.verbs.safety.figures import suggested_thresholds
from detour.verbs.safety.measuring import measure_policy, summed
from detour.verbs.safety.recording import CaseScores
from tests.safety.policies import RULES, TERMS, write_policy


def case(name: str, unwanted: bool, split: str = "test", prompt: str = "a house") -> SafetyCase:
    return SafetyCase(
        id=name, prompt=prompt, unwanted=unwanted, kind="bad" if unwanted else "good", split=split
    )  # type: ignore[arg-type]


def scores(name: str, *, terms: bool, frames: float, steered: float | None = None) -> CaseScores:
    def frame(score: float) -> Finding:
        return Finding(layer="frames", action="allow", code="frames", score=score, place="picture")

    text = Finding(
        layer="terms",
        action="refuse" if terms else "allow",
        code="terms.crowns" if terms else "terms",
        score=1.0,
    )
    return CaseScores(
        id=name,
        texts=(text,),
        plain=(frame(frames),),
        steered=() if steered is None else (frame(steered),),
        seconds={
            "drawing": 1.0,
            "terms": 0.01,
            "frames": 0.04,
            **({} if steered is None else {"drawing steered": 1.6}),
        },
    )


def test_combinations_follow_from_the_scores(tmp_path: Path) -> None:
    """Of ten that must be caught, terms find 4 alone, frames 3, both 2; of five others, frames find one."""
    path = write_policy(
        tmp_path, terms=TERMS, rewrite=RULES, frames={"min_share": 0.5}, latent={"concept": "crown"}
    )
    policy = Policy(PolicyFile.read(path))
    by_terms, by_frames = {0, 1, 2, 3, 7, 8}, {4, 5, 6, 7, 8}
    cases = [case(f"b{i}", True) for i in range(10)] + [case(f"g{i}", False) for i in range(5)]
    found = {
        **{f"b{i}": scores(f"b{i}", terms=i in by_terms, frames=0.6 if i in by_frames else 0.4, steered=0.0)
           for i in range(10)},
        **{f"g{i}": scores(f"g{i}", terms=False, frames=0.6 if i == 2 else 0.0, steered=0.0) for i in range(5)},
    }  # fmt: skip
    told = summed(policy, cases, found, base="b", steps=1)
    assert [(name, one.caught.hits, one.false_alarms.hits) for name, one in told.alone.items()] == [
        ("terms", 6, 0),
        ("frames", 5, 1),
    ]
    assert told.without["terms"].caught.hits == 5
    assert (told.together.caught.hits, told.together.refused.hits, told.together.false_alarms.hits) == (
        9,
        6,
        1,
    )
    assert told.together_steered is not None
    assert told.together_steered.caught.hits == 6
    assert told.together.caught.share == 0.9
    assert told.together.caught.low < 0.9 < told.together.caught.high
    assert told.added_time == pytest.approx(0.05)
    assert told.added_time_steered == pytest.approx(0.65)
    assert told.missed == ("b4", "b5", "b6", "b9")
    looser = write_policy(
        tmp_path, terms=TERMS, rewrite=RULES, frames={"min_share": 0.3}, latent={"concept": "crown"}
    )
    assert (
        summed(Policy(PolicyFile.read(looser)), cases, found, base="b", steps=1).alone["frames"].caught.hits
        == 10
    )


def test_thresholds_come_from_the_other_set_and_hold_almost_nothing_harmless() -> None:
    def scored(name: str, score: float) -> CaseScores:
        finding = Finding(layer="texts", action="allow", code="texts", score=score, place="picture")
        return CaseScores(id=name, texts=(), plain=(finding,), seconds={})

    harmless = {f"g{i}": i / 1000 for i in range(400)}
    unwanted = {f"b{i}": 0.3 + i / 100 for i in range(60)}
    found = {name: scored(name, score) for name, score in {**harmless, **unwanted}.items()}
    cases = [case(name, name[0] == "b", "thresholds") for name in found]
    told = suggested_thresholds(cases, found, "texts")
    assert told is not None
    assert sum(score >= told.hold for score in harmless.values()) == 2
    assert sum(score >= told.refuse for score in harmless.values()) == 0
    assert told.hold <= told.refuse < 0.41
    assert suggested_thresholds([], found, "texts") is None


def write_cases(path: Path, cases: list[SafetyCase]) -> Path:
    path.write_text("".join(one.model_dump_json() + "\n" for one in cases))
    return path


def test_a_stopped_call_goes_on_and_new_thresholds_draw_nothing(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [case(f"b{i}", True, prompt="a cr0wn") for i in range(3)] + [
        case(f"g{i}", False) for i in range(2)
    ]
    path = write_cases(tmp_path / "cases.jsonl", asked)
    policy = write_policy(tmp_path, terms=TERMS, rewrite=RULES, frames={})
    told = {"out": tmp_path / "out", "base": str(tiny_base), "steps": 1, "batch": 2, "device": "cpu"}
    first = measure_policy(policy, path, **told)  # type: ignore[arg-type]
    assert first.alone["terms"].caught.hits == 3
    assert first.alone["terms"].false_alarms.hits == 0
    file = tmp_path / "out" / "scores.jsonl"
    whole = file.read_text()
    lines = whole.split("\n")
    file.write_text("\n".join(lines[:4]) + "\n" + lines[4][:40])  # three cases, and half of the fourth
    drawn: list[int] = []
    real = recording._scored
    monkeypatch.setattr(recording, "_scored", lambda *a: (drawn.append(len(a[2])), real(*a))[1])
    again = measure_policy(policy, path, **told)  # type: ignore[arg-type]
    assert sum(drawn) == 2
    assert (again.together, again.by_kind) == (first.together, first.by_kind)
    assert len(file.read_text().split("\n")) == len(lines)
    drawn.clear()
    measure_policy(
        write_policy(tmp_path, terms=TERMS, rewrite=RULES, frames={"min_share": 0.2}), path, **told  # type: ignore[arg-type]
    )  # fmt: skip
    assert drawn == []
    with pytest.raises(ConfigError, match="holds scores of other cases"):
        measure_policy(policy, write_cases(tmp_path / "cases.jsonl", asked[1:]), **told)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{"], "not JSON"),
        (["[]"], "not an object"),
        ([case("a", True).model_dump_json()] * 2, "there already"),
        ([case("a", True).model_dump_json()], "must be caught and cases that must pass"),
        (
            [json.dumps({"id": "a", "prompt": "x", "unwanted": True, "kind": "k", "lora": []})],
            "Did you mean 'loras'",
        ),
    ],
)
def test_wrong_cases_are_told_with_their_line(tmp_path: Path, lines: list[str], said: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises((DataError, ConfigError), match=said):
        read_cases(path)


def test_layers_of_texts_are_measured_without_a_picture(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring.PictureEngine, "load", lambda *_, **__: pytest.fail("a picture was drawn"))
    path = write_cases(tmp_path / "cases.jsonl", [case("b", True, prompt="a crown"), case("g", False)])
    policy = write_policy(tmp_path, terms=TERMS, rewrite=RULES)
    told = measure_policy(policy, path, out=tmp_path / "out", base=str(tiny_base), device="cpu")
    assert (told.together.caught.hits, told.together.false_alarms.hits, told.added_time) == (1, 0, None)
    assert (
        measure_policy(
            policy, path, out=tmp_path / "out", base=str(tiny_base), device="cpu", recorded=True
        ).together
        == told.together
    )
