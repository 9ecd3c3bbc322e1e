"""Loss and score of classification."""

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy per sample in nats, `[B]`; outputs are logits `[B, classes]`."""
    return F.cross_entropy(outputs, targets, reduction="none")


def hits(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest logit is the target's, else 0, `[B]`."""
    return (outputs.argmax(dim=-1) == targets).to(outputs.dtype)
