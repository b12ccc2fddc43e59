"""The checks of verify: files, structure, tokenizer, numbers, predictions."""
