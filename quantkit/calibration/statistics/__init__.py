"""What the linear layers saw: sums over tokens, and their file."""
