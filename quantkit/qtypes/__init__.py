"""Quantization types: one module each, found by file name. See `base` for what a type offers."""

# Part of every plan's digest: raise it when an encoder or a layout writes other bytes for the same plan.
NUMERICS = 1
