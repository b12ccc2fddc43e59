"""Quantization types: one module each, found by file name. See `base` for what a type offers."""

# Part of every plan's digest: raise it when the bytes that any encoder writes for the same weights change.
NUMERICS = 1
