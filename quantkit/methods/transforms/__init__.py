"""Edits that leave a block's function as it is and make its weights, or its activations, easier to round.

A scale per channel moves from one matrix into another: the producer's output channels are divided by it, the
consumers' input columns multiplied. Any method can follow. families/folds.py knows where, folding.py how, awq.py and
smoothquant.py by how much.
"""
