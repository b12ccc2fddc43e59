"""Run text through a model, one transformer block in memory at a time, and keep statistics of what its linears see.

    CalibrationSpec -> prepare_samples -> open_calibration_model -> walk_blocks -> Statistics -> to_imatrix, encode

What comes before the model (`prepare`, `data`, `samples`, `templates`) imports no torch: samples and their digest are
known first. transformers is imported when a model is opened.
"""
