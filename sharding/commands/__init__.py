"""Run the sharding jobs: shard, reshard, verify."""
