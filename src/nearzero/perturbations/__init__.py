"""Perturbations, families, noise, activations and unit ranges: pure computation, without models or files."""
