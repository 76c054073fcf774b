"""Task decoders: tiny, final, independent of each other."""
