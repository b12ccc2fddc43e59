"""How text is cut into tokens, as GGUF files say it."""
