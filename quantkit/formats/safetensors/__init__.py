"""safetensors: reading and writing headers, offsets and shards."""

INDEX = "model.safetensors.index.json"  # which tensors lie in which shard
