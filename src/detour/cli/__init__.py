"""Tier 5, the command line: parse, call a verb, show."""
