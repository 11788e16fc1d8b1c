"""The network, its weights, the low-rank update, and the adapter that joins adaptation and prediction."""
