"""safetensors: reading and writing headers, offsets and shards."""
