"""How good a model is on a data set in one of the standard layouts. Knows nothing of HTTP."""
