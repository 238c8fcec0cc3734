"""Plant attacks in a copy of real shards, and say where they are."""
