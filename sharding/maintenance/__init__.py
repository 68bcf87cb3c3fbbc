"""Check, repair and extend a finished dataset; compare and overlay label versions."""
