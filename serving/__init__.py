"""The model for others: vLLM, transformers serve, a page in the browser."""
