def diagrams() -> dict[str, str]:
    return {}
