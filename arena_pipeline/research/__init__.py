"""For people who study methods, not needed in a clinic: phantoms, pre-training, comparisons. It imports the other packages; only cli/ imports it."""
