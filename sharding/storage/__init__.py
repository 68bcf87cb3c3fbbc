"""Store bytes: atomic files, locks, retries, tars, Parquet and objects in buckets."""
