"""A model behind HTTP: ``lumen serve``."""
