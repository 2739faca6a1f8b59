"""Pages of retrieved images, their errors and a map of the embeddings."""
