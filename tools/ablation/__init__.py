"""The ablations: what ``tools/ablate.py`` is made of."""
