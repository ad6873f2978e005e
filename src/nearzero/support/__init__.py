"""Helpers for all other packages: arrays, whole files, memory, threads, and errors in a user's code."""
