"""Grades of lab 13, reference and subject."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader
from detour.labs.hints import direction_of


def _tokens(embeddings: Tensor, weight: Tensor, bias: Tensor, num: int) -> Tensor:
    tokens = functional.linear(embeddings, weight, bias).unflatten(-1, (num, -1))
    return functional.layer_norm(tokens, tokens.shape[-1:])


def picture_tokens(answer: Any) -> Grade:
    """Projections of several widths and numbers of tokens."""
    cases = []
    for seed, (pictures, width, num, each) in enumerate([(2, 5, 4, 8), (3, 6, 2, 4), (1, 4, 3, 6)]):
        generator = torch.Generator().manual_seed(seed)
        cases.append(
            (
                torch.randn(pictures, width, generator=generator) + 1,
                torch.randn(num * each, width, generator=generator),
                torch.randn(num * each, generator=generator),
                num,
            )
        )

    def linear(e: Tensor, w: Tensor, b: Tensor, num: int) -> Tensor:
        return functional.linear(e, w, b).unflatten(-1, (num, -1))

    return compare(
        answer,
        _tokens,
        cases,
        [
            Mistake(
                formula=linear,
                what="your tokens are not normalised.",
                why="text states come out of a normalisation too, and keys and values were made for their scale.",
                hint="functional.layer_norm over the last dimension.",
            ),
            Mistake(
                formula=lambda e, w, b, num: _tokens(e, w, torch.zeros_like(b), num),
                what="the bias is missing.",
                why="without it no picture, an embedding of zeros, would give tokens of zeros.",
                hint="functional.linear(embeddings, weight, bias)",
            ),
            Mistake(
                formula=lambda e, w, b, num: functional.layer_norm(
                    functional.linear(e, w, b), (len(b),)
                ).unflatten(-1, (num, -1)),
                what="you normalise all tokens of a picture together.",
                why="each token is read by itself, as each word's state is.",
                hint="make the shape first, then normalise over the width.",
            ),
            Mistake(
                formula=lambda e, w, b, num: functional.layer_norm(
                    functional.linear(e, w, b).unflatten(-1, (-1, num)).transpose(1, 2), (len(b) // num,)
                ),
                what="your tokens are interleaved.",
                why="the first rows of the weight are the first token's, in the files that others wrote.",
                hint="reshape(len(embeddings), num_tokens, -1)",
            ),
            Mistake(
                formula=lambda e, w, b, num: linear(e, w, b, num).softmax(-1),
                what="you take a softmax of the tokens.",
                why="tokens are states, not weights.",
                hint="functional.layer_norm",
            ),
            Mistake(
                formula=lambda e, w, b, num: functional.normalize(linear(e, w, b, num), dim=-1),
                what="you divide each token by its length.",
                why="a normalisation to mean 0 and variance 1 also takes the mean away.",
                hint="functional.layer_norm in place of functional.normalize.",
            ),
            Mistake(
                formula=lambda e, w, b, num: _tokens(e, w, b, num).flatten(1),
                what="your answer is one vector a picture.",
                why="cross-attention reads a sequence: (pictures, tokens, width).",
                hint="keep the three dimensions.",
            ),
        ],
        why="linear, then (N, num_tokens, width), then each token to mean 0 and variance 1.",
        hint=direction_of(13, "picture_tokens"),
        praise="A picture is four words now, and every cross-attention can read them.",
    )


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(queries[None], keys[None], values[None])[0]


def _decoupled(q: Tensor, k: Tensor, v: Tensor, pk: Tensor, pv: Tensor, s: float) -> Tensor:
    return _attend(q, k, v) + s * _attend(q, pk, pv)


def _with_weights(weigh: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The right formula with other attention weights of (queries, keys)."""
    return lambda q, k, v, pk, pv, s: weigh(q, k) @ v + s * weigh(q, pk) @ pv


def decoupled(answer: Any) -> Grade:
    """Several lengths, widths and strengths, one of them 0."""
    cases = []
    for seed, (length, words, tokens, width, strength) in enumerate(
        [(5, 7, 4, 8, 0.6), (3, 4, 2, 6, 1.0), (4, 5, 3, 16, 0.0), (2, 6, 4, 4, 1.5)]
    ):
        generator = torch.Generator().manual_seed(seed)
        shapes = ((length, width), (words, width), (words, width), (tokens, width), (tokens, width))
        cases.append((*(torch.randn(shape, generator=generator) for shape in shapes), strength))

    def appended(q: Tensor, k: Tensor, v: Tensor, pk: Tensor, pv: Tensor, s: float) -> Tensor:
        return _attend(q, torch.cat([k, pk]), torch.cat([v, s * pv]))

    return compare(
        answer,
        _decoupled,
        cases,
        [
            Mistake(
                formula=appended,
                what="both share one softmax.",
                why="then the picture takes weight from the text even at strength 0.",
                hint="two attentions, and the second one times strength is added.",
            ),
            Mistake(
                formula=lambda q, k, v, pk, pv, s: (1 - s) * _attend(q, k, v) + s * _attend(q, pk, pv),
                what="you mix text and picture.",
                why="at strength 1 nothing of the text would be left; the picture is added, and the text stays.",
                hint="of_text + strength * of_picture",
            ),
            Mistake(
                formula=lambda q, k, v, pk, pv, s: _attend(q, k, v) + _attend(q, s * pk, pv),
                what="the strength is on the keys.",
                why="there it makes the weights flatter and not the result quieter: 0 would still add a mean.",
                hint="multiply what the second attention gives.",
            ),
            Mistake(
                formula=lambda q, k, v, pk, pv, s: _attend(q, k, v) + _attend(q, pk, pv),
                what="the strength has no effect.",
                why="0 has to be the base.",
                hint="strength * of_picture",
            ),
            Mistake(
                formula=lambda q, k, v, pk, pv, s: s * (_attend(q, k, v) + _attend(q, pk, pv)),
                what="the strength is on the text too.",
                why="at 0 nothing at all would be left.",
                hint="multiply the picture's part alone.",
            ),
            Mistake(
                formula=_with_weights(lambda q, k: (q @ k.T).softmax(-1)),
                what="the scores are not divided by √d.",
                why="the base's keys were learned with that scale; without it the softmax is too sharp.",
                hint="queries @ keys.T / d ** 0.5",
            ),
            Mistake(
                formula=_with_weights(lambda q, k: (q @ k.T / q.shape[-1] ** 0.5).softmax(0)),
                what="your softmax runs over the queries.",
                why="each query spreads a weight of 1 over the keys.",
                hint="softmax(-1)",
            ),
            Mistake(
                formula=lambda q, k, v, pk, pv, s: _attend(q, k, v) + s * _attend(q, pk, pk),
                what="you take the picture's keys for its values.",
                why="keys say where to look, values what is found there.",
                hint="picture_values is the last argument of the second attention.",
            ),
        ],
        why="attention to the text, and strength times attention to the picture with a softmax of its own.",
        hint=direction_of(13, "decoupled"),
        praise="The text's part is untouched, whatever the picture says.",
    )


def shown_rows(answer: Any) -> Grade:
    """One picture and several."""
    cases = [
        (torch.randn(pictures, width, generator=torch.Generator().manual_seed(pictures)),)
        for pictures, width in ((1, 4), (3, 5), (2, 6))
    ]
    return compare(
        answer,
        lambda e: torch.cat([torch.zeros_like(e), e]),
        cases,
        [
            Mistake(
                formula=lambda e: torch.cat([e, torch.zeros_like(e)]),
                what="the rows with the prompt come first.",
                why="the picture would be steered away from.",
                hint="the N rows of zeros first.",
            ),
            Mistake(
                formula=lambda e: torch.cat([e, e]),
                what="both rows are shown the picture.",
                why="guidance multiplies what differs between the rows; the picture would cancel out.",
                hint="zeros in the rows without the prompt.",
            ),
            Mistake(
                formula=lambda e: torch.stack([torch.zeros_like(e), e], dim=1).flatten(0, 1),
                what="the rows take turns.",
                why="the batch has all rows without a prompt first.",
                hint="torch.cat, not a row of each in turn.",
            ),
            Mistake(
                formula=lambda e: torch.cat([-e, e]),
                what="the rows without the prompt are shown the opposite of the picture.",
                why="no picture is an embedding of zeros; nobody trained on negative ones.",
                hint="torch.zeros_like(embeddings)",
            ),
            Mistake(
                formula=lambda e: torch.cat([torch.ones_like(e), e]),
                what="the rows without the prompt are shown ones.",
                why="that is some picture; training dropped pictures to zeros.",
                hint="torch.zeros_like(embeddings)",
            ),
            Mistake(
                formula=lambda e: torch.cat([e.mean(0, keepdim=True).expand_as(e), e]),
                what="the rows without the prompt are shown the mean of the batch.",
                why="a picture would depend on what is drawn beside it.",
                hint="torch.zeros_like(embeddings)",
            ),
            Mistake(
                formula=lambda e: torch.cat([torch.zeros_like(e[:1]), e]),
                what="there is one row without a prompt for all pictures.",
                why="every picture is drawn in two rows.",
                hint="as many rows of zeros as there are embeddings.",
            ),
            Mistake(
                formula=lambda e: e,
                what="there is one row a picture.",
                why="guidance asks twice.",
                hint="torch.cat([…, embeddings])",
            ),
        ],
        why="N rows of zeros, then the N embeddings.",
        hint=direction_of(13, "shown_rows"),
        praise="What differs between the rows is what guidance makes stronger: now the picture is part of it.",
    )


def _kept(likenesses: Sequence[float], in_place: Sequence[bool], least: float) -> float:
    both = [like >= least and place for like, place in zip(likenesses, in_place, strict=True)]
    return sum(both) / len(both)


def kept(answer: Any) -> Grade:
    """Pictures that are like it in the wrong place, unlike it in the right one, and exactly at the limit."""
    yes, no = True, False
    return compare(
        answer,
        _kept,
        [
            ([0.9, 0.5, 0.8, 0.7, 0.2], [yes, yes, no, yes, yes], 0.7),
            ([0.9, 0.9, 0.1, 0.2], [no, no, yes, yes], 0.5),
            ([0.6, 0.7, 0.8], [yes, yes, yes], 0.6),
            ([0.1, 0.9, 0.4, 0.6, 0.5, 0.3], [no, yes, yes, no, yes, no], 0.35),
        ],
        [
            Mistake(
                formula=lambda likes, place, least: (
                    sum(like >= least for like in likes) * sum(place) / len(place) ** 2
                ),
                what="you multiply the two shares.",
                why="that is true only if the one has nothing to do with the other: pictures that are very like a "
                "photo are often in the photo's place.",
                hint="ask both of the same picture.",
            ),
            Mistake(
                formula=lambda likes, place, least: sum(like >= least for like in likes) / len(likes),
                what="you look at the likeness alone.",
                why="a copy of the photo would be perfect.",
                hint="and place",
            ),
            Mistake(
                formula=lambda likes, place, least: sum(place) / len(place),
                what="you look at the place alone.",
                why="anybody may stand in it.",
                hint="likeness >= least and place",
            ),
            Mistake(
                formula=lambda likes, place, least: (
                    sum(like >= least or there for like, there in zip(likes, place, strict=True)) / len(place)
                ),
                what="you count pictures that have one of the two.",
                why="a character is kept where both are right.",
                hint="and in place of or.",
            ),
            Mistake(
                formula=lambda likes, place, least: (
                    sum(like > least and there for like, there in zip(likes, place, strict=True)) / len(place)
                ),
                what="a likeness of exactly the limit does not count.",
                why="from the limit on a picture is like the character.",
                hint=">= in place of >.",
            ),
            Mistake(
                formula=lambda likes, place, least: (
                    sum(like >= least and there for like, there in zip(likes, place, strict=True))
                    / max(sum(place), 1)
                ),
                what="you divide by the pictures in the right place.",
                why="a way that loses the place would look better the more often it does.",
                hint="divide by all pictures.",
            ),
            Mistake(
                formula=lambda likes, place, least: (
                    min(sum(like >= least for like in likes), sum(place)) / len(place)
                ),
                what="you take the smaller of the two counts.",
                why="they may be of other pictures.",
                hint="ask both of the same picture.",
            ),
            Mistake(
                formula=lambda likes, place, least: 1 - _kept(likes, place, least),
                what="you return the share that is lost.",
                why="the task asks for what is kept.",
                hint="1 less it.",
            ),
        ],
        why="the share of pictures with a likeness of at least least that are also in place.",
        hint=direction_of(13, "kept"),
        praise="A copy in the wrong place and a stranger in the right one count alike: not at all.",
    )


TASKS: Mapping[str, Grader] = {
    "picture_tokens": picture_tokens,
    "decoupled": decoupled,
    "shown_rows": shown_rows,
    "kept": kept,
}
