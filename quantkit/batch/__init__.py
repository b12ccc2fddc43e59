"""Many conversions: a matrix of models and recipes as tasks, each one command line, and the places that run them.

No weight is read here, and nothing is planned: `pipeline.batch` does that, with what the other commands plan with.
"""
