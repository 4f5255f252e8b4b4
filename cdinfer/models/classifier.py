"""The classification head: global average pooling and one linear layer.

x (B, C, h, w) --trunk--> (B, F, h', w') --mean--> (B, F) --fc--> logits (B, num_classes)
"""

from torch import Tensor, nn

from cdinfer.models.trunk import Trunk


class Classifier(nn.Module):
    """A trunk that answers with one class per image, whatever the image's size.

    Args:
        trunk: network without a head.
        num_classes: number of logits.
    """

    def __init__(self, trunk: Trunk, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.fc = nn.Linear(trunk.out_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, h, w)``, whatever the trunk reads, to logits ``(B, num_classes)``."""
        logits: Tensor = self.fc(self.trunk(x).mean((2, 3)))
        return logits
