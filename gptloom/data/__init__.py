"""Documents in, token shards out, batches by step; and the text that every Python carries."""
