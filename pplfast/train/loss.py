"""The multi-label soft margin loss of each image."""

import torch.nn.functional as F
from torch import Tensor


def image_losses(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """logits float32 (B, C), labels (B, C) of 0 and 1, weights (B,) of 0 and 1 -> weighted losses float32 (B,).

    The mean over classes of the binary cross-entropy; weight 0 marks an image that only fills the batch.
    """
    return weights * F.multilabel_soft_margin_loss(logits, labels, reduction="none")
