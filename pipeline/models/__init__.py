"""Build networks that score classes by activation maps, and read and write checkpoints."""
