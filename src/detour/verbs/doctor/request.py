"""What surely makes bad pictures of a request, said before it is drawn."""

from collections.abc import Mapping, Sequence
from itertools import chain

from torch import nn

from detour.bases.base import Base
from detour.generation.few_steps import names_of
from detour.generation.schedulers import pick_sampler
from detour.specs.generation import GenerateSpec
from detour.verbs.chosen_adapters import ChosenAdapter
from detour.verbs.doctor.adapter_rules import change_shares, examine_size
from detour.verbs.doctor.finding import Finding, gravest_first
from detour.verbs.doctor.picture_rules import Drawing, examine_drawing
from detour.verbs.doctor.prompt_rules import examine_prompt
from detour.verbs.doctor.table import RULES
from detour.verbs.judge.finished_run import TRIGGER

SURE = frozenset(rule.name for rule in RULES if rule.sure)


def examine_request(
    spec: GenerateSpec,
    base: Base,
    *,
    models: Mapping[str, nn.Module],
    adapters: Sequence[ChosenAdapter] = (),
    device: str,
    dtype: str,
) -> tuple[Finding, ...]:
    """The findings on a request that are worth a warning, the gravest first.

    Args:
        spec: the request.
        base: that draws it.
        models: part → module with the base's weights; adapters may be attached.
        adapters: that are on.
        device: where it is drawn.
        dtype: in which precision.
    """
    how = spec.picture
    drawing = Drawing(
        where="request",
        base=base.name,
        native_size_px=base.native_size_px,
        own_guidance=base.recommended_guidance,
        guidance_scale=None if how.guidance_scale == "auto" else how.guidance_scale,
        steps=how.steps,
        scheduler=pick_sampler(how.scheduler, base.scheduler_config()),
        spacing=how.spacing,
        guidance_interval=how.guidance_interval,
        deep_every=how.deep_every,
        embeds_guidance=base.embeds_guidance,
        true_guidance_scale=how.true_guidance_scale,
        width_px=None if how.width_px == "auto" else how.width_px,
        height_px=None if how.height_px == "auto" else how.height_px,
        device=device,
        dtype=dtype,
        negative_prompt=how.negative_prompt,
        seed=spec.seed,
        adapters=tuple(name for one in adapters for name in names_of(one.use.name, one.adapter.metadata)),
    )
    triggers = [
        trigger for one in adapters if one.use.weight and (trigger := one.adapter.metadata.get(TRIGGER, ""))
    ]
    of_prompts = (
        examine_prompt(prompt, negative=how.negative_prompt, triggers=triggers) for prompt in spec.prompts
    )
    of_adapters = (
        examine_size(change_shares(one.adapter, models), weight=one.use.weight, where=one.use.name)
        for one in adapters
    )
    found = chain(examine_drawing(drawing), *of_prompts, *of_adapters)
    return gravest_first(finding for finding in found if finding.rule in SURE)
