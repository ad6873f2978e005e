"""Perturbations, the families that make them, noise, activations and unit ranges: pure, no models and no files."""
