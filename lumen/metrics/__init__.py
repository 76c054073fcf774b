"""Evaluation protocols: samples in, figures out."""
