"""Analyses of one layer of one model: each asks an evaluator and never knows which model it is."""
