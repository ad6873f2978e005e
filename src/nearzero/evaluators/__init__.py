"""Evaluate one layer of one model on some data under any perturbation, by one of two backends."""
