"""Training: recipes, the engines that carry them out, and what is recorded on the way."""
