"""Which backend does the work."""

BACKENDS = ("torch", "faiss")


def choose_backend(name: str) -> str:
    """ "torch" or "faiss"; "auto" is what was measured to be faster (docs/retrieval.md has the figures): torch.

    Counting needs no list of neighbors, takes half of the tiles where query and gallery are one set, and has no
    limit on K; faiss has to find and sort as many neighbors as the largest class has items. Raises ValueError for
    any other name.
    """
    if name == "auto":
        return "torch"
    if name not in BACKENDS:
        raise ValueError(f'backend must be "auto", {" or ".join(repr(one) for one in BACKENDS)}, found {name!r}')
    return name
