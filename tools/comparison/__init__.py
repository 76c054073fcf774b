"""The comparison of readouts and connectors: what ``tools/compare.py`` is made of."""
