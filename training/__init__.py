"""Fine-tuning: conversations as batches with labels, and what of a model is trained."""
