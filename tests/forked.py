"""Processes for tests that kill some: a fork server imports once for all of them, then each costs milliseconds."""

import multiprocessing

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "torch",
        "accelerate",
        "tests.training.killed_writer",
        "tests.training.test_processes",
        "benchmarks.serve_kills",
        # What a base is loaded with: else every life of a server imports it anew.
        "diffusers.models.unets.unet_2d_condition",
        "diffusers.models.autoencoders.autoencoder_kl",
        "transformers.models.clip.modeling_clip",
        "transformers.models.clip.tokenization_clip",
    ]
)
