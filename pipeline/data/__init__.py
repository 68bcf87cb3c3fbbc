"""Load batches: copy datasets from buckets, decode images with DALI, join their labels."""
