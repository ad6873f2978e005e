"""One layer of one model on some data, under any perturbation, by one of two backends."""

from nearzero.evaluators.base import Block, LayerEvaluator, Scores
from nearzero.evaluators.select import open_evaluator

__all__ = ["Block", "LayerEvaluator", "Scores", "open_evaluator"]
