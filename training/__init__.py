"""Fine-tuning: conversations as batches with labels, and which parts of a model are trained."""
