"""Analyses of one layer of one model. Each works on any evaluator, and so on any model."""
