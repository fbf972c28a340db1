"""A policy as a whole: which layer decides, what a client is told, and that everything readable is read."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detour.adapters.adapter import Adapter
from detour.bases.base import Base, open_base
from detour.diffusion.guidance import ClassifierFree
from detour.diffusion.safe_latent import SafeLatent
from detour.errors import ConfigError
from detour.evaluation.alignment import laid_distances
from detour.evaluation.planted import planted_copies
from detour.generation.references import ReferenceInUse
from detour.generation.requests import AdapterFile, AdapterInUse, Picture, PictureRequest
from detour.generation.starts import StartPicture
from detour.safety.policy import Policy
from detour.safety.policy_file import PolicyFile
from detour.serving.jobs import JobRequest
from detour.serving.layered_policy import LayeredPolicy
from detour.serving.policy import Allowed, Held, Refused
from detour.specs.generation import PictureSpec
from tests.safety.policies import OTHERS, RULES, TERMS, TEXTS, rendered, write_pictures, write_policy


@pytest.fixture(scope="module")
def base() -> Base:
    return open_base("pocket")


def ask(prompt: str, **other: object) -> PictureRequest:
    return PictureRequest(prompt=prompt, seed=1, **other)  # type: ignore[arg-type]


def as_picture(pixels: np.ndarray, nsfw: bool | None = None) -> Picture:
    return Picture(pixels=pixels, width_class=2, how=PictureSpec(), nsfw=nsfw)


@pytest.fixture(scope="module")
def words(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return Policy.open(write_policy(tmp_path_factory.mktemp("words"), terms=TERMS, rewrite=RULES), base)


def test_a_request_that_nothing_is_found_in_is_what_is_drawn(words: Policy) -> None:
    request = ask("a house")
    decision = words.check_request(request)
    assert (decision.action, decision.layer, decision.code) == ("allow", "policy", "allowed")
    assert decision.request is request
    assert decision.policy == words.version
    assert [one.layer for one in decision.findings] == ["terms"]


def adapter(**told: object) -> AdapterInUse:
    return AdapterInUse(adapter=Adapter({}, **told))  # type: ignore[arg-type]


HIDDEN = {
    "prompt": ask("a crown"),
    "negative": ask("a house", negative_prompt="crown"),
    "negative of the settings": ask("a house", how=PictureSpec(negative_prompt="crown")),
    "further text": ask("a house", further_texts=("crown",)),
    "new word": ask("a house", adapters=(adapter(words={"crown": {"text_encoder": torch.zeros(1, 4)}}),)),
    "trigger of the metadata": ask(
        "a house", adapters=(adapter(metadata={"modelspec.trigger_phrase": "a crown"}),)
    ),
    "file": ask(
        "x", adapters=(AdapterInUse(adapter=AdapterFile(path=Path("a/my-crown.safetensors"), sha256="")),)
    ),
}


@pytest.mark.parametrize("where", list(HIDDEN))
def test_everything_that_can_be_read_passes_the_layers(words: Policy, where: str) -> None:
    decision = words.check_request(HIDDEN[where])
    assert (decision.action, decision.layer, decision.code) == ("refuse", "terms", "terms.crowns")
    assert decision.request is None
    assert "'crown'" in decision.findings[-1].detail
    assert "'crown'" not in decision.message
    assert "terms.crowns" in decision.message


def test_triggers_of_a_shelf_pass_the_layers(words: Policy) -> None:
    assert words.check_request(ask("a house"), triggers=("tiara",)).action == "refuse"


def test_a_change_says_what_is_drawn_instead(words: Policy) -> None:
    decision = words.check_request(ask("a Bowler  Hat in the city"))
    assert (decision.action, decision.code) == ("change", "terms.hats")
    assert decision.revised_prompt == "a cup in the city"
    assert decision.request == ask("a cup in the city")


def test_what_cannot_be_changed_is_refused(words: Policy) -> None:
    disguised = words.check_request(ask("a b0wler h4t"))
    assert (disguised.action, disguised.code) == ("refuse", "rewrite.failed")
    negative = words.check_request(ask("a house", negative_prompt="bowler hat"))
    assert (negative.action, negative.code) == ("refuse", "rewrite.failed")


def test_a_change_and_a_hold_are_both_done(words: Policy) -> None:
    decision = words.check_request(ask("a bowler hat and a mask"))
    assert (decision.action, decision.revised_prompt) == ("hold", "a cup and a mask")
    assert decision.request is not None
    assert decision.request.prompt == "a cup and a mask"
    held = words.check_picture(as_picture(np.zeros((8, 8, 3), np.uint8)), after=decision)
    assert (held.action, held.code) == ("hold", "terms.masks")


def test_a_decision_is_kept_as_json_without_the_request(words: Policy) -> None:
    text = words.check_request(ask("a bowler hat")).model_dump_json()
    assert '"request"' not in text
    assert '"revised_prompt":"a cup"' in text


# ---- rewriting by an endpoint


class Chat(BaseHTTPRequestHandler):
    """Answers as the test says."""

    answer: bytes = b""
    pause_s = 0.0
    seen: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        type(self).seen.append(self.rfile.read(length).decode() + str(self.headers))
        self.send_response(200)
        self.end_headers()
        try:
            size = 8 if self.pause_s else 1 << 20
            for start in range(0, len(self.answer), size):
                self.wfile.write(self.answer[start : start + size])
                self.wfile.flush()
                time.sleep(self.pause_s)
        except OSError:
            return

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def chat() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def answering(text: str) -> bytes:
    import json

    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def by_chat(url: str, folder: Path, base: Base, *, rules: bool = True, timeout_s: float = 20.0) -> Policy:
    endpoint = {"url": url, "model": "any", "timeout_s": timeout_s, "key_variable": "DETOUR_TEST_KEY"}
    rewrite = {"endpoint": endpoint, **(RULES if rules else {})}
    return Policy.open(write_policy(folder, terms=TERMS, rewrite=rewrite), base)


@pytest.mark.parametrize(
    ("answer", "pause_s", "prompt", "by"),
    [
        (answering('"a red  chair"'), 0.0, "a red chair", "by endpoint"),
        (answering("a red chair"), 0.2, "a cup", "timed out"),
        (b"<html>", 0.0, "a cup", "no new prompt"),
        (answering("x" * 3000), 0.0, "a cup", "longer than"),
        (b'{"choices": []}', 0.0, "a cup", "no new prompt"),
        (b"[" * 100_000, 0.0, "a cup", "no new prompt"),
    ],
)
def test_an_endpoint_rewrites_and_rules_stand_in_where_it_fails(
    chat: str, tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch, answer: bytes, pause_s: float, prompt: str,
    by: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("DETOUR_TEST_KEY", "secret")
    monkeypatch.setattr(Chat, "answer", answer)
    monkeypatch.setattr(Chat, "pause_s", pause_s)
    monkeypatch.setattr(Chat, "seen", [])
    # An answer in pieces comes slower than the limit as a whole, and each piece faster.
    policy = by_chat(chat, tmp_path, base, timeout_s=0.6 if pause_s else 20.0)
    decision = policy.check_request(ask("a bowler hat"))
    assert (decision.action, decision.revised_prompt) == ("change", prompt)
    assert by in decision.findings[-1].detail
    end = time.monotonic() + 20
    while not Chat.seen:  # on a busy machine the limit can be over before the request is read
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "Bearer secret" in Chat.seen[0]
    assert "a bowler hat" in Chat.seen[0]


def test_what_comes_back_passes_the_layers_again(
    chat: str, tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETOUR_TEST_KEY", "secret")
    monkeypatch.setattr(Chat, "answer", answering("a golden cr0wn"))
    decision = by_chat(chat, tmp_path, base).check_request(ask("a bowler hat"))
    assert decision.action == "refuse"
    assert decision.request is None
    assert decision.revised_prompt is None


def test_without_rules_a_failing_endpoint_refuses(
    tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETOUR_TEST_KEY", "secret")
    decision = by_chat("http://127.0.0.1:9/v1", tmp_path, base, rules=False).check_request(
        ask("a bowler hat")
    )
    assert (decision.action, decision.code) == ("refuse", "rewrite.failed")


# ---- guidance


def test_safe_latent_diffusion_goes_with_every_request_that_is_drawn(tmp_path: Path, base: Base) -> None:
    policy = Policy.open(write_policy(tmp_path, latent={"concept": "crown", "strength": "strong"}), base)
    request = ask("a house")
    drawn = policy.check_request(request).request
    assert drawn is not None
    assert drawn.guidance is not None
    made = drawn.guidance(5.0)
    assert isinstance(made, SafeLatent)
    assert made.settings.scale == 2000
    assert replace(drawn, guidance=None, further_texts=()) == request
    with pytest.raises(ConfigError, match="guidance of its own"):
        policy.check_request(replace(request, guidance=ClassifierFree))


# ---- pictures


@pytest.fixture(scope="module")
def looks(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("looks")
    write_pictures(folder / "bad", [rendered("crown", seed) for seed in range(8)])
    write_pictures(folder / "good", [rendered(OTHERS[seed % 15], 50 + seed) for seed in range(30)])
    write_pictures(folder / "works", [rendered("house", seed) for seed in range(200, 206)])
    examples = {"unwanted": "bad", "harmless": "good", "refuse": 0.9, "hold": 0.5}
    path = write_policy(
        folder, texts=TEXTS, examples=examples, frames={}, copies={"references": "works"},
        order=["frames", "copies", "texts", "examples"],
    )  # fmt: skip
    return Policy.open(path, base)


def test_layers_tell_crowns_from_other_things(looks: Policy) -> None:
    crowns = np.stack([rendered("crown", seed) for seed in range(300, 316)])
    others = np.stack([rendered(OTHERS[seed % 15], seed) for seed in range(400, 430)])
    for layer in ("texts", "examples"):
        caught = [
            {one.layer: one.action for one in row}[layer] != "allow"
            for row in looks.look_at_pictures(crowns, every_layer=True)
        ]
        wrong = [
            {one.layer: one.action for one in row}[layer] != "allow"
            for row in looks.look_at_pictures(others, every_layer=True)
        ]
        assert np.mean(caught) >= 0.85, layer
        assert np.mean(wrong) <= 0.1, layer


def test_a_copy_of_a_reference_is_refused_and_a_new_picture_is_not(looks: Policy) -> None:
    work = rendered("house", 203)
    for kind, copies in planted_copies(work[None], seed=4).items():
        if kind == "mirrored":
            decision = looks.check_picture(as_picture(copies[0]))
            assert (decision.action, decision.layer) == ("refuse", "copies"), kind
    assert looks.check_picture(as_picture(rendered("duck", 77))).action == "allow"


def test_windows_that_are_kept_give_the_same_distances(looks: Policy) -> None:
    pictures = np.stack([rendered("house", 203), rendered("duck", 77)])
    assert looks.copies is not None
    assert looks.copies._originals.windows is not None
    expected = laid_distances(pictures, looks.copies._originals.pictures)
    assert np.array_equal(looks.copies.scores(pictures)[0], expected.min(axis=1))


def test_a_frame_is_held(looks: Policy) -> None:
    framed = rendered("duck", 77)
    framed[:6] = framed[-6:] = framed[:, :6] = framed[:, -6:] = 255
    decision = looks.check_picture(as_picture(framed))
    assert (decision.action, decision.code) == ("hold", "frames")


def test_layers_look_in_the_order_of_the_policy_and_a_refusal_ends_the_round(looks: Policy) -> None:
    copy = looks.check_picture(as_picture(rendered("house", 203)))
    assert [one.layer for one in copy.findings] == ["frames", "copies"]
    new = looks.check_picture(as_picture(rendered("duck", 77)))
    assert [one.layer for one in new.findings] == ["frames", "copies", "texts", "examples"]


def test_reference_pictures_pass_the_layers_of_pictures(looks: Policy) -> None:
    decision = looks.check_request(ask("a house"), references=rendered("house", 203)[None])
    assert (decision.action, decision.layer) == ("refuse", "copies")
    assert decision.findings[-1].place == "reference"


def test_the_picture_that_drawing_begins_with_passes_the_layers_of_pictures(looks: Policy) -> None:
    decision = looks.check_request(ask("a house", start=StartPicture(pixels=rendered("house", 203))))
    assert (decision.action, decision.layer, decision.findings[-1].place) == ("refuse", "copies", "reference")
    assert (
        looks.check_request(ask("a duck", start=StartPicture(pixels=rendered("duck", 77)))).action == "allow"
    )


def test_reference_pictures_of_a_request_pass_the_layers_of_pictures(looks: Policy) -> None:
    def shown(kind: str, seed: int) -> PictureRequest:
        tool: Any = None  # no layer asks it
        return ask(
            "a house", references=(ReferenceInUse(tool=tool, picture=rendered(kind, seed), sha256=""),)
        )

    assert looks.check_request(shown("duck", 77)).action == "allow"
    decision = looks.check_request(shown("house", 203))
    assert (decision.action, decision.findings[-1].place) == ("refuse", "reference")


class DarkPictures:
    """Refuses dark pictures, as a base's checker refuses others."""

    def flag(self, pictures: np.ndarray) -> list[bool]:
        return [bool(one.mean() < 50) for one in pictures]


def test_the_bases_checker_looks_at_start_pictures_and_is_loaded_for_the_first_one(tmp_path: Path) -> None:
    opened: list[DarkPictures] = []

    def load() -> Any:
        opened.append(DarkPictures())
        return opened[-1]

    file = PolicyFile.read(write_policy(tmp_path, checker={}))
    policy = Policy(file, has_checker=True, open_checker=load)
    assert policy.check_request(ask("a house")).action == "allow"
    assert opened == []
    for level, action in ((0, "refuse"), (200, "allow"), (0, "refuse")):
        start = StartPicture(pixels=np.full((8, 8, 3), level, np.uint8))
        decision = policy.check_request(ask("a house", start=start))
        assert (decision.action, decision.findings[-1].layer) == (action, "checker")
    assert len(opened) == 1
    with pytest.raises(ConfigError, match="none is there to look at reference pictures"):
        Policy(file, has_checker=True).check_request(ask("a house", start=start))


def test_a_server_decides_on_pictures_as_the_policy_does(looks: Policy) -> None:
    served = LayeredPolicy(looks)
    asked = JobRequest(
        prompts=("a house",), seeds=(1,), width_px=128, height_px=128, steps=2, scheduler="ddim", guidance_scale=4.0,
        width_class=2,
    )  # fmt: skip
    named = {"allow": Allowed, "hold": Held, "refuse": Refused}
    kinds = [*(("crown", seed) for seed in range(300, 306)), ("duck", 77), ("house", 203), ("house", 9)]
    seen = set()
    for kind, seed in kinds:
        expected = looks.check_picture(as_picture(rendered(kind, seed)))
        found = served.check_picture(rendered(kind, seed), asked)
        assert isinstance(found, named[expected.action])
        assert getattr(found, "code", "allowed") == expected.code
        seen.add(expected.layer)
    assert {"policy", "copies", "texts"} <= seen


def test_the_bases_checker_decides_and_must_have_looked(base: Base, tmp_path: Path) -> None:
    file = PolicyFile.read(write_policy(tmp_path, checker={"action": "hold"}))
    policy = Policy(file, has_checker=True)
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert policy.check_picture(as_picture(pixels, nsfw=True)).action == "hold"
    assert policy.check_picture(as_picture(pixels, nsfw=False)).action == "allow"
    with pytest.raises(ConfigError, match="safety=True"):
        policy.check_picture(as_picture(pixels))
    with pytest.raises(ConfigError, match="no safety checker"):
        Policy.open(tmp_path / "policy.toml", base)


# ---- the file


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"term": {}}, "unknown key 'term'"),
        ({"terms": {"categories": []}}, "at least 1"),
        ({"texts": {**TEXTS, "refuse": 0.1}}, "lower threshold is above"),
        ({"terms": TERMS}, "needs the table rewrite"),
        ({"frames": {}, "order": ["frames", "copies"]}, "order must name"),
        ({"rewrite": {}}, "rules or an endpoint"),
        ({"copies": {"references": "nowhere"}}, "no such folder"),
        ({"latent": {"concept": "crown", "strength": "weak"}}, "latent.strength"),
        ({"name": "Übel"}, "pattern"),
    ],
)
def test_a_wrong_policy_is_refused_in_one_line(
    tmp_path: Path, base: Base, tables: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Policy.open(write_policy(tmp_path, **tables), base)
    assert "\n" not in str(caught.value)


def test_the_version_changes_with_the_settings_and_with_the_files_that_they_name(tmp_path: Path) -> None:
    write_pictures(tmp_path / "works", [rendered("house", 1)])
    path = write_policy(tmp_path, copies={"references": "works"})
    first = PolicyFile.read(path).version
    assert first.startswith("test@1:")
    assert PolicyFile.read(path).version == first
    write_pictures(tmp_path / "works", [rendered("house", 2)])
    second = PolicyFile.read(path).version
    write_policy(tmp_path, copies={"references": "works", "margin": 0.2})
    third = PolicyFile.read(path).version
    assert len({first, second, third}) == 3
