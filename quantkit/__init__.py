"""quantkit: turn a Hugging Face checkpoint into a quantized model that provably runs."""

__version__ = "0.1.0"
