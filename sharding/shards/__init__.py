"""Plan shards, transcode images and write one tar per shard."""
