"""Read encoded images from directories, archives, buckets, URLs and finished shards."""
