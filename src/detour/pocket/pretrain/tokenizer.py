"""The base's tokenizer: CLIP's byte-level BPE, with merges learned from the world's captions.

``train_new_from_iterator`` is of no use here (transformers 5.23): it maps characters it has not seen to
the end-of-text token, sets ``model_max_length`` to 1e30 and does not write ``vocab.json`` and
``merges.txt``. The two files are written here instead: 256 byte tokens, the same 256 as word endings,
one token per merge, and the two special tokens, so that every string has a spelling.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from detour.pocket.pretrain.parts import MAX_TOKENS

START, END = "<|startoftext|>", "<|endoftext|>"
Pair = tuple[str, str]


def byte_alphabet() -> dict[int, str]:
    """The printable stand-in of each byte value that GPT-2 and CLIP use.

    Source: Radford et al. 2019, ``bytes_to_unicode`` of the GPT-2 code.
    """
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in kept}
    moved = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + position) for position, byte in enumerate(moved)}


def learn_merges(captions: Iterable[str], *, max_merges: int) -> list[Pair]:
    """Byte-pair merges, most frequent first; ties go to the pair that sorts first.

    Args:
        captions: texts; only their words (letters) take part, lower-cased.
        max_merges: upper limit; learning also stops when every word is one token.
    """
    table = byte_alphabet()
    counts: Counter[tuple[str, ...]] = Counter()
    for caption in captions:
        for word in re.findall(r"[a-z]+", caption.lower()):
            letters = [table[byte] for byte in word.encode()]
            counts[(*letters[:-1], letters[-1] + "</w>")] += 1
    merges: list[Pair] = []
    while len(merges) < max_merges:
        pairs: Counter[Pair] = Counter()
        for symbols, count in counts.items():
            for pair in pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        counts = Counter({_merge(symbols, best): count for symbols, count in counts.items()})
    return merges


def _merge(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    merged: list[str] = []
    position = 0
    while position < len(symbols):
        if symbols[position : position + 2] == pair:
            merged.append(pair[0] + pair[1])
            position += 2
        else:
            merged.append(symbols[position])
            position += 1
    return tuple(merged)


def write_tokenizer(folder: Path, captions: Iterable[str], *, max_merges: int = 1000) -> CLIPTokenizer:
    """Learns the merges and writes ``folder`` so that ``CLIPTokenizer.from_pretrained`` reads it.

    Args:
        folder: made if missing; files in it are replaced.
        captions: texts of the world.
        max_merges: upper limit of learned tokens.

    Returns:
        the tokenizer as loaded back from ``folder``.
    """
    merges = learn_merges(captions, max_merges=max_merges)
    letters = list(byte_alphabet().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: position for position, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer
