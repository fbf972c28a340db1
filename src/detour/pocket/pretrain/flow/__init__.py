"""How pocket-flow, the embedded flow-matching base, is made and measured."""
