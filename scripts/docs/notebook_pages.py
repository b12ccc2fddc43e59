def notebook_pages() -> dict[str, str]:
    return {}
