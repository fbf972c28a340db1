"""A request before it is accepted: the policy decides which of its pictures may be drawn, are refused, or are held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detour.generation.metering import Meter
from detour.serving.jobs import JobRequest
from detour.serving.keys import Client
from detour.serving.policy import Changed, Held, Policy, Refused
from detour.serving.refusals import NotReady, RefusedByPolicy
from detour.serving.store import JobStore


@dataclass(frozen=True)
class DecidedRequest:
    """A request after the policy: what may be drawn, what is refused, and what is held for a person."""

    request: JobRequest
    revised: str | None
    refused: Mapping[int, Refused]
    holds: Mapping[int, str]


def decide_request(
    request: JobRequest,
    references: Sequence[np.ndarray] = (),
    *,
    client: Client,
    triggers: Sequence[str],
    policy: Policy,
    store: JobStore,
    meter: Meter,
) -> DecidedRequest:
    """Ask the policy about a request, and write what it refuses or changes into the safety log.

    Args:
        request: texts and adapters.
        references: uint8 (H, W, 3), its reference pictures.
        client: whose it is.
        triggers: texts that the adapters of the request were trained with.
        policy: decides.
        store: has the safety log.
        meter: counts what the check costs.

    Raises:
        RefusedByPolicy: no picture of it may be drawn.
        NotReady: it could not be checked.
    """
    try:
        with meter.phase("safety"):
            decisions = policy.check_request(request, triggers=triggers, references=references)
    except Exception as error:  # what cannot be checked is not drawn
        raise NotReady(
            f"the request could not be checked ({type(error).__name__}). Ask again later."
        ) from error

    def note(kind: str, request: JobRequest, **facts: str) -> None:
        """Write a decision on a request into the safety log; a change of its prompt too, which the job keeps."""
        kept = policy.rules.prompt_kept
        prompts = list(dict.fromkeys(kept(one) for one in request.prompts))
        store.note(kind, key=client.id, policy=policy.version, prompts=prompts, **facts)

    prompts = list(request.prompts)
    refused: dict[int, Refused] = {}
    holds: dict[int, str] = {}
    revised = None
    for number, one in enumerate(decisions):
        if isinstance(one, Refused):
            refused[number] = one
        elif isinstance(one, Changed):
            prompts[number], revised = one.prompt, revised or one.cause
            holds |= {} if one.hold is None else {number: one.hold}
        elif isinstance(one, Held):
            holds[number] = one.cause
    for code, cause in dict.fromkeys((one.code, one.detail) for one in refused.values()):
        note("request-refused", request, code=code, cause=cause)
    if refused and len(refused) == len(prompts):
        first = refused[0]
        raise RefusedByPolicy(first.cause, reason=first.code)
    if revised is not None:
        note("request-changed", request, cause=revised)
        request = request.model_copy(update={"prompts": tuple(prompts)})
    return DecidedRequest(request, revised, refused, holds)
