"""What the user wants: recipes as data, and how their TOML files are read."""
