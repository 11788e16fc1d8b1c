"""Few-shot adaptation of one task from one support set. Knows nothing of prediction: the saved adapter joins them."""
