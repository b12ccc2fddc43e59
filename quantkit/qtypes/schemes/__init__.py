"""Schemes: how a linear layer is rounded when codes and scales are tensors of their own."""

TILE = 128  # rows, and columns, of a block of FP8 numbers that share a scale
