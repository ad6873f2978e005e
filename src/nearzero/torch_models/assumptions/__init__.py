"""Infer what the numbers of a user's model mean, and check it by experiment where an experiment can tell."""

from nearzero.torch_models.assumptions.table import UNREAD, Assumption, Assumptions, condensed, read_json

__all__ = ["UNREAD", "Assumption", "Assumptions", "condensed", "read_json"]
