"""Build CAM networks and read and write their checkpoints."""
