"""Weights and windows, against AUTOMATIC1111's own examples and compel's embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from detour.bases.base import open_base
from detour.bases.text import TextStage
from detour.bases.words import Placed
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.prompts import PromptReader, Span, read_weights, without_weights
from detour.specs.generation import PictureSpec
from tests.tiny_base import make_tiny_sdxl


@pytest.fixture(scope="module")
def text(tiny_base: Path) -> TextStage:
    return open_base(str(tiny_base)).load_text()


@pytest.fixture(scope="module")
def two_encoders(tmp_path_factory: pytest.TempPathFactory) -> TextStage:
    return open_base(str(make_tiny_sdxl(tmp_path_factory.mktemp("sdxl")))).load_text()


# The first six are the examples in the docstring of A1111's parse_prompt_attention.
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("An (important) word", [("An ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1),
                ("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641), (".", 1.1),
            ],
        ),
        ("", []),
        ("Big Bird: 12:30)", [("Big Bird: 12:30)", 1.0)]),
        (r"a\b \\ (x: -.5 )", [("a\\b \\ ", 1.0), ("x", -0.5)]),
        ("([x])", [("x", 1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
    ],
)  # fmt: skip
def test_weights_are_read_as_automatic1111_reads_them(prompt: str, expected: list[tuple[str, float]]) -> None:
    spans = read_weights(prompt)
    assert [span.text for span in spans] == [text for text, _ in expected]
    assert [span.weight for span in spans] == pytest.approx([weight for _, weight in expected])


def test_break_begins_a_section_also_within_brackets() -> None:
    assert read_weights("a BREAK (b BREAK c) BREAKS") == (
        Span("a "), Span(" ", 1.0, 1), Span("b ", 1.1, 1), Span(" c", 1.1, 2), Span(" BREAKS", 1.0, 2),
    )  # fmt: skip
    assert without_weights(r"a (red:1.3) \(old\) house") == "a red (old) house"


@pytest.mark.parametrize("prompt", ["a red house", "(a red house:1)", "a ([red]) house", ""])
def test_weight_one_gives_the_plain_states_bit_for_bit(text: TextStage, prompt: str) -> None:
    assert torch.equal(
        PromptReader(text).encode([prompt]).states, text.encode(["a red house" if prompt else ""]).states
    )


def test_escaped_brackets_reach_the_encoder(text: TextStage) -> None:
    assert torch.equal(PromptReader(text).encode([r"a \(b\)"]).states, text.encode(["a (b)"]).states)


@pytest.mark.parametrize("weight", [1.3, 0.5, 0.0, -1.0])
def test_a_weight_moves_its_tokens_alone_along_the_line_from_the_empty_prompt(
    text: TextStage, weight: float
) -> None:
    states = PromptReader(text).encode([f"a (red:{weight}) house"]).states
    plain, empty = text.encode(["a red house"]).states, text.encode([""]).states
    reds = slice(2, 5)  # start, a, then one token a letter
    torch.testing.assert_close(states[:, reds], empty[:, reds] + weight * (plain - empty)[:, reds])
    assert torch.equal(states[:, :2], plain[:, :2])
    assert torch.equal(states[:, 5:], plain[:, 5:])


def test_weights_above_one_give_compels_embeddings(text: TextStage, two_encoders: TextStage) -> None:
    """compel 2.5.1 (transformers 5.23, torch 2.13) on these very bases; ``"a (red)1.3 house"`` is its spelling:

    Compel(tokenizer=…, text_encoder=…).build_conditioning_tensor("a (red)1.3 house")[0, 4, :4]
    Compel(tokenizer=[…], text_encoder=[…], returned_embeddings_type=PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
           requires_pooled=[False, True])("a (red)1.3 house")[0][0, 4, [0, 1, 32, 33]]
    """
    ours = PromptReader(text).encode(["a (red:1.3) house"]).states[0, 4, :4]
    theirs = [-0.1790940761566162, 0.3785971999168396, 1.1792000532150269, -1.3864620923995972]
    torch.testing.assert_close(ours, torch.tensor(theirs), rtol=1e-5, atol=1e-5)
    ours = PromptReader(two_encoders).encode(["a (red:1.3) house"]).states[0, 4, [0, 1, 32, 33]]
    theirs = [0.5274853706359863, -1.0669631958007812, 0.44018715620040894, 0.8181055784225464]
    torch.testing.assert_close(ours, torch.tensor(theirs), rtol=1e-5, atol=1e-5)


def test_no_weight_touches_the_pooled_state_of_sdxl(two_encoders: TextStage) -> None:
    weighted, plain = (
        PromptReader(two_encoders).encode(["a (red:1.3) house"]),
        two_encoders.encode(["a red house"]),
    )
    assert weighted.pooled is not None
    assert plain.pooled is not None
    assert torch.equal(weighted.pooled, plain.pooled)
    assert not torch.equal(weighted.states, plain.states)


def test_a_long_prompt_is_read_in_windows_of_75_each_as_it_is_read_alone(two_encoders: TextStage) -> None:
    parts = ["x" * 75, "y" * 75, "zz"]
    whole = PromptReader(two_encoders).encode(["".join(parts)])
    alone = [two_encoders.encode([part]) for part in parts[:2]]
    assert whole.states.shape == (1, 3 * 77, 64)
    assert whole.mask is None
    # In one string only the last letter ends the word: its token is another one, so letters are compared by ids.
    ids = tuple(two_encoders.tokens("text_encoder", "".join(parts)).ids)
    for index in range(3):
        window = Placed(ids[75 * index : 75 * (index + 1)], {})
        rows = [two_encoders.encode_window(part, window)[0] for part in two_encoders.models]
        assert torch.equal(whole.states[:, 77 * index : 77 * (index + 1)], torch.cat(rows, dim=-1))
    assert whole.pooled is not None
    first = two_encoders.encode_window("text_encoder_2", Placed(ids[:75], {}))[1]
    assert first is not None
    assert torch.equal(whole.pooled, first)
    assert not torch.equal(whole.pooled, alone[1].pooled)


def test_a_phrase_moves_to_the_next_window_when_a_comma_is_near_its_end(text: TextStage) -> None:
    near = "a" * 60 + "," + "b" * 20  # the comma is token 61 of 75: 14 before the end
    far = "a" * 40 + "," + "b" * 40
    reader = PromptReader(text)
    states = reader.encode([near]).states
    assert torch.equal(states[:, :77], text.encode(["a" * 60 + ","]).states)
    assert torch.equal(states[:, 77:], text.encode(["b" * 20]).states)
    assert not torch.equal(reader.encode([far]).states[:, :77], text.encode(["a" * 40 + ","]).states)
    assert reader.num_windows(far) == reader.num_windows("a BREAK b") == 2
    assert reader.num_windows("a" * 75) == 1


def test_break_encodes_what_follows_by_itself(text: TextStage) -> None:
    states = PromptReader(text).encode(["a cat BREAK a dog"]).states
    assert torch.equal(states, torch.cat([text.encode([one]).states for one in ("a cat", "a dog")], dim=1))


def test_new_words_keep_their_vectors_when_they_are_weighed(text: TextStage) -> None:
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    text = text.knowing({"<bob>": {"text_encoder": vectors}})
    plain, empty = text.encode(["a <bob> x"]).states, text.encode([""]).states
    states = PromptReader(text).encode(["a (<bob>:2) x"]).states
    long = PromptReader(text).encode(["y" * 75 + " <bob>"]).states[:, 77:]
    alone = text.encode(["<bob>"]).states
    torch.testing.assert_close(states[:, 2:4], empty[:, 2:4] + 2 * (plain - empty)[:, 2:4])
    assert torch.equal(long, alone)


def test_a_long_prompt_draws_the_same_beside_a_short_one(tiny_base: Path) -> None:
    engine = PictureEngine.load(open_base(str(tiny_base)), prompts="written")
    long = PictureRequest(prompt="a red house, " * 12, seed=1)
    short = PictureRequest(prompt="a cat", seed=2, negative_prompt="(blue:1.4), " * 10)
    spec = PictureSpec(steps=2, guidance_scale=3.0)
    together = engine.draw([long, short], spec, batch=2).pictures.astype(int)
    alone = [engine.draw([one], spec).pictures[0].astype(int) for one in (long, short)]
    assert np.abs(together - np.stack(alone)).max() <= 1
    cut = PictureEngine.load(open_base(str(tiny_base))).draw([long], spec).pictures[0].astype(int)
    assert np.abs(cut - alone[0]).max() > 1


def test_states_that_are_not_read_change_nothing(tiny_base: Path) -> None:
    base = open_base(str(tiny_base))
    engine = PictureEngine.load(base)
    short = engine.text.encode(["a cat"])
    padded = short.cat(PromptReader(engine.text).encode(["x" * 100])).select([0])
    assert padded.mask is not None
    assert padded.mask.sum() == 77
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(engine.predict(noise, 500, padded), engine.predict(noise, 500, short))
