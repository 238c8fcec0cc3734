"""The report: one self-contained HTML page about a run, drawn from its database and its shards."""
