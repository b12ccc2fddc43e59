"""Checkpoints for servers: what is asked for, how layers are stored, and the plan to the byte."""
