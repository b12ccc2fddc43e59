"""Bits where they matter: what each type costs each tensor, and which types a budget is best spent on."""
