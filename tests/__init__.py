"""The test suite, mirroring the modules."""
