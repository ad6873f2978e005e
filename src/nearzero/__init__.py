"""nearzero: do hidden units measure distance or intensity? Perturb them, and see."""
