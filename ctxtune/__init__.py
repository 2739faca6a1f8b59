"""ctxtune: tune and ablate the contextual loss and its rivals for image retrieval."""

__version__ = "0.1.0"
