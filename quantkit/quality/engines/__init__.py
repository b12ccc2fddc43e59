"""Programs that load artifacts, as Python packages."""
