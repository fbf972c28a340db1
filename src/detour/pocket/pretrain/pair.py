"""Trains the CLIP pair: its text tower alone, both towers together, and the picture tower alone.

Three stages, so that the UNet need not wait for the picture tower. First the text tower learns, from
captions only, to say at each object's token which object of which colour it is: a causal tower knows the
colour there, and it is token by token that the UNet reads it. Then both towers are trained contrastively.
Then the text tower is frozen, for it is the base's text encoder now, and the picture tower goes on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from detour.pocket.pretrain.autoencoder import to_model_range
from detour.pocket.pretrain.precision import autocast
from detour.pocket.pretrain.texts import PAIRS, Texts
from detour.pocket.world import VOCABULARY

MAX_SHIFT_PX = 8


class Pair(nn.Module):
    """The CLIP pair and the heads that help to train it and are thrown away afterwards."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        clip.set_attn_implementation("eager")  # SDPA's backward is slow for so few keys (torch 2.13, CPU)
        self.clip = clip
        text_width = clip.config.text_config.hidden_size
        vision_width = clip.config.vision_config.hidden_size
        vocabulary = clip.config.text_config.vocab_size
        self.token_pairs = nn.Linear(text_width, len(PAIRS))
        self.text_pairs = nn.Linear(text_width, len(PAIRS))
        self.text_words = nn.Linear(text_width, vocabulary)
        self.vision_pairs = nn.Linear(vision_width, len(PAIRS))
        self.vision_words = nn.Linear(vision_width, vocabulary)
        self.vision_objects = nn.Linear(vision_width, len(VOCABULARY.objects))
        for head in (self.text_pairs, self.text_words, self.vision_words):
            nn.init.constant_(head.bias, -4.0)

    def train_vision_only(self) -> None:
        """Freeze the text tower; its projection, which the UNet does not read, goes on learning."""
        for part in (self.clip.text_model, self.token_pairs, self.text_pairs, self.text_words):
            part.requires_grad_(False)


def object_tokens(tokenizer: CLIPTokenizer) -> Tensor:
    """(objects,) id of each object's word; each is one token because the merges were learned from captions."""
    ids = [tokenizer(kind, add_special_tokens=False).input_ids for kind in VOCABULARY.objects]
    assert all(len(tokens) == 1 for tokens in ids), "an object's word is not one token"
    return torch.tensor([tokens[0] for tokens in ids])


def as_ids(ids: NDArray[np.int16], *, end: int) -> Tensor:
    """(count, length) int64, cut behind the longest text: a causal tower does not see what follows."""
    tokens = torch.from_numpy(ids.astype(np.int64))
    longest = int((tokens == end).to(torch.int64).argmax(dim=1).max()) + 1
    return tokens[:, :longest]


def bag_of_words(ids: Tensor, vocabulary: int) -> Tensor:
    """(count, vocabulary) float32, one where the token occurs."""
    return torch.zeros(len(ids), vocabulary).scatter_(1, ids, 1.0)


def bag_of_pairs(pairs: Tensor) -> Tensor:
    """(count, 2) pair numbers, -1 for none → (count, pairs) float32."""
    bag = torch.zeros(len(pairs), len(PAIRS) + 1)
    bag.scatter_(1, torch.where(pairs < 0, len(PAIRS), pairs), 1.0)
    return bag[:, :-1]


def bag_loss(logits: Tensor, bag: Tensor) -> Tensor:
    """Binary cross-entropy, summed over words and averaged over the batch."""
    return F.binary_cross_entropy_with_logits(logits.float(), bag, reduction="sum") / len(bag)


def token_loss(pair: Pair, states: Tensor, ids: Tensor, pairs: Tensor, objects: Tensor) -> Tensor:
    """Cross-entropy of the (object, colour) pair at the token of each object.

    Args:
        pair: for its head.
        states: (count, length, width) of the text tower.
        ids: (count, length).
        pairs: (count, 2), -1 for none.
        objects: ids of the objects' words, from :func:`object_tokens`.
    """
    losses = []
    for column in pairs.unbind(1):
        known = column >= 0
        if bool(known.any()):
            wanted = objects[column[known] // len(VOCABULARY.colours)]
            position = (ids[known] == wanted[:, None]).to(torch.int64).argmax(dim=1)
            logits = pair.token_pairs(states[known, position]).float()
            losses.append(F.cross_entropy(logits, column[known]))
    return torch.stack(losses).mean()


def text_loss(
    pair: Pair, ids: Tensor, pairs: Tensor, objects: Tensor
) -> tuple[Tensor, Tensor, Mapping[str, float]]:
    """Loss of the text tower alone: objects, colours and words of its captions.

    Returns:
        scalar loss, (count, projection) text features (not normalised), figures for the log.
    """
    with autocast():
        output = pair.clip.text_model(input_ids=ids)
        features = pair.clip.text_projection(output.pooler_output)
        at_tokens = token_loss(pair, output.last_hidden_state, ids, pairs, objects)
        bags = bag_loss(pair.text_pairs(output.pooler_output), bag_of_pairs(pairs))
        words = bag_loss(
            pair.text_words(output.pooler_output), bag_of_words(ids, pair.text_words.out_features)
        )
    loss = at_tokens + 0.3 * bags + 0.1 * words
    return loss, features.float(), {"token": at_tokens.item(), "tbag": bags.item(), "twords": words.item()}


def shifted(pictures: NDArray[np.uint8], generator: torch.Generator) -> Tensor:
    """Pictures moved by up to ``MAX_SHIFT_PX`` and flipped half of the time; edges are repeated.

    Args:
        pictures: (batch, height, width, 3).
        generator: decides.

    Returns:
        (batch, 3, height, width) float32 in [-1, 1].
    """
    size = pictures.shape[1]
    moves = torch.randint(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1, (len(pictures), 2), generator=generator).tolist()
    flips = torch.rand(len(pictures), generator=generator).lt(0.5).tolist()
    moved = np.empty_like(pictures)
    places = np.arange(size)
    for index, ((down, right), flip) in enumerate(zip(moves, flips, strict=True)):
        rows = np.clip(places + down, 0, size - 1)
        columns = np.clip(places + right, 0, size - 1)
        moved[index] = pictures[index][rows][:, columns[::-1] if flip else columns]
    return to_model_range(moved)


def share_loss(logits: Tensor, bag: Tensor) -> Tensor:
    """Cross-entropy against the one or two classes that are present, in equal shares.

    Much faster to learn from than a binary question for each class, most of which are absent.
    """
    return F.cross_entropy(logits.float(), bag / bag.sum(dim=1, keepdim=True))


def vision_loss(
    pair: Pair, pictures: Tensor, ids: Tensor, pairs: Tensor
) -> tuple[Tensor, Tensor, Mapping[str, float]]:
    """Loss of the picture tower alone: its objects, their colours, and the caption's words.

    Returns:
        scalar loss, (count, projection) picture features (not normalised), figures for the log.
    """
    bag = bag_of_pairs(pairs)
    kinds = bag.view(len(bag), len(VOCABULARY.objects), -1).amax(dim=2)
    with autocast():
        pooled = pair.clip.vision_model(pixel_values=pictures).pooler_output
        features = pair.clip.visual_projection(pooled)
        objects = share_loss(pair.vision_objects(pooled), kinds)
        both = share_loss(pair.vision_pairs(pooled), bag)
        words = bag_loss(pair.vision_words(pooled), bag_of_words(ids, pair.vision_words.out_features))
    figures = {"vobj": objects.item(), "vpair": both.item(), "vwords": words.item()}
    return objects + both + 0.1 * words, features.float(), figures


def contrastive_loss(
    scale: Tensor, pictures: Tensor, true: Tensor, false: Tensor, ids: Tensor
) -> tuple[Tensor, Mapping[str, float]]:
    """Pictures against captions, both ways; each picture also against its own false captions.

    Args:
        scale: scalar, logarithm of the inverse temperature.
        pictures: (batch, projection) features.
        true: (batch, projection) features of the captions.
        false: (batch, count, projection) features of the false captions.
        ids: (batch, length) of the captions; equal captions are not held against each other.
    """
    pictures, true, false = (F.normalize(features, dim=-1) for features in (pictures, true, false))
    factor = scale.exp().clamp(max=100.0)
    same = (ids[:, None] == ids[None]).all(dim=-1) & ~torch.eye(len(ids), dtype=torch.bool)
    logits = (factor * pictures @ true.T).masked_fill(same, -1e4)
    own = factor * torch.einsum("bd,bkd->bk", pictures, false)
    target = torch.arange(len(ids))
    forward = F.cross_entropy(torch.cat([logits, own], dim=1), target)
    backward = F.cross_entropy(logits.T, target)
    with torch.no_grad():
        hit = float((torch.cat([logits, own], dim=1).argmax(1) == target).float().mean())
        beat = float((logits.diagonal() > own.max(dim=1).values).float().mean())
    return (forward + backward) / 2, {"nce": forward.item(), "hit": hit, "beat": beat}


def draw_texts(texts: Texts, which: NDArray[np.int64], phrasing: int, *, end: int) -> tuple[Tensor, Tensor]:
    """Token ids (batch, length) of some pictures' captions, and (batch, 2) their pairs."""
    ids = as_ids(texts.true[which, phrasing], end=end)
    return ids, torch.from_numpy(texts.pairs[which].astype(np.int64))


class PooledTexts:
    """The frozen text tower's state of every caption, true and false, computed when first asked for."""

    def __init__(self, clip: CLIPModel, texts: Texts, *, end: int) -> None:
        self._tower = clip.text_model
        self._texts = texts
        self._end = end
        width = clip.config.text_config.hidden_size
        count, phrasings, false = texts.false.shape[:3]
        self._states = torch.zeros(count, phrasings, 1 + false, width, dtype=torch.float16)
        self._known = np.zeros((count, phrasings), dtype=np.bool_)

    def read(self, which: NDArray[np.int64], phrasing: int) -> Tensor:
        """(batch, 1 + false, text_width) float32: the true caption first."""
        new = np.unique(which[~self._known[which, phrasing]])
        if len(new):
            true, false = self._texts.true[new, phrasing], self._texts.false[new, phrasing]
            ids = np.concatenate([true[:, None], false], axis=1)
            tokens = as_ids(ids.reshape(-1, ids.shape[-1]), end=self._end)
            with torch.no_grad(), autocast():
                pooled = self._tower(input_ids=tokens).pooler_output
            self._states[new, phrasing] = pooled.half().view(len(new), ids.shape[1], -1)
            self._known[new, phrasing] = True
        return self._states[which, phrasing].float()
