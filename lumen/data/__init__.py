"""Data sets, transforms and generated data: files in, samples out."""
