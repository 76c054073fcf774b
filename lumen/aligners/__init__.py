"""From LMM features to the shared representation."""
