"""The product on several hosts made of Linux namespaces; `make test-cluster` runs it."""
