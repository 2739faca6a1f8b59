"""What backbones give, in the one form that the poolings take."""

from torch import Tensor


def tokens_as_map(tokens: Tensor, class_tokens: int, *, class_token_only: bool = False) -> Tensor:
    """A token sequence (b, n, c) as a feature map of one column, (b, c, n - class_tokens, 1), on which every pooling works.

    `class_tokens`: how many stand in front; with `class_token_only` the first of them alone is taken, (b, c, 1, 1).
    """
    if class_token_only:
        return tokens[:, 0, :, None, None]
    return tokens[:, class_tokens:].mT.unsqueeze(3)
