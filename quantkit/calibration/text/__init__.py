"""Calibration text to tokens."""
