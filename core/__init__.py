"""What every stage shares: errors, shards, schemas, the run folder, executors."""
