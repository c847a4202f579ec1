"""Serving the model to others: vLLM, `transformers serve`, a page in the browser."""
