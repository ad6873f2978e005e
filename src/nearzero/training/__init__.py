"""Training: recipes, the engines that carry them out, and the record of loss and accuracy."""
