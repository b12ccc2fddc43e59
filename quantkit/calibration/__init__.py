"""Run text through a model, one transformer block in memory at a time, and keep statistics of what its linears see.

    load_texts -> select_samples -> walk_blocks -> Statistics -> to_imatrix, encode

torch is imported by `blocks`, `statistics` and what they use; transformers only when a model is opened.
"""
