"""Files that hold tensors and settings, written whole or not at all."""
