"""Load batches: staging from buckets, DALI decoding, labels joined to images."""
