"""Nano: a tiny LMM made of transformers' classes."""
