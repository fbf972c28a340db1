"""Experiments that people run by hand: a grid of variants and seeds, resumable, with a table and a sentence."""
