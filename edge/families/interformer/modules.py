"""InterFormer as published (ICCV 2023, arXiv 2304.02942), in eager PyTorch: the encoder, then neck and head per click."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edge.families.interformer.backbone import Backbone
from edge.families.interformer.config import InterFormerConfig
from edge.families.interformer.head import FCNHead, UPerHead
from edge.families.interformer.neck import IMSA, Box


class InterFormer(nn.Module):
    """``backbone`` once per image, ``click`` at every click."""

    def __init__(self, config: InterFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.neck = IMSA(config)
        self.decode_head = UPerHead(config)
        self.auxiliary_head = FCNHead(config) if config.auxiliary_head else None

    def click(self, maps: Sequence[Tensor], labels: Tensor, box: Box | None = None) -> Tensor:
        """The encoder's maps and the label map [batch, 1, H, W] to logits [batch, 2, H/4, W/4]; ``box`` zooms in."""
        logits: Tensor = self.decode_head(self.neck(maps, labels, box))
        return logits

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        return self.click(self.backbone(image), labels)
