"""How programs that serve models want a quantized layer: one module a container, for writing and reading."""
