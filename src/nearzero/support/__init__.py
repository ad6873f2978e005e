"""Helpers for all other packages: arrays, whole files, memory and threads."""
