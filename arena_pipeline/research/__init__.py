"""What a person who studies methods needs and a clinic does not: phantoms, pre-training, comparisons. Imports the rest; only cli/ imports it."""
