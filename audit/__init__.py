"""The DuckDB store and what people read from it: SQL, a single pair, selections."""
