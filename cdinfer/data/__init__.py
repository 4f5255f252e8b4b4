"""FILES -> BATCHES: pictures, the sample set, shards of latents, one DataModule."""
