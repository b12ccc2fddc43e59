"""What will happen, to the byte: types, layouts, offsets and headers, from headers alone."""
