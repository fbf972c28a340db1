"""Tier 1: the ideas of this package, each on one page, for reading.

Nothing here is used to train or to draw: that is done by ``diffusion/``, PEFT and diffusers' samplers, which know
batches, precisions and families. Each page is held equal to diffusers' or PEFT's own to 1e-5 by its test, with variance
type, spacing, offset and final ᾱ alike. Read them in this order: ``time_embedding``, ``cross_attention``,
``lora_layer``, ``forward_process``, ``spacing``, ``ddpm``, ``ddim``, ``classifier_free``; of SD 3 and Flux
``rectified_flow`` and ``joint_attention``.
"""
