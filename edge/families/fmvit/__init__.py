"""FMViT, a hybrid of convolutions and attention for pictures whose every branch folds into one convolution.

Tan et al., "FMViT: A multiple-frequency mixing Vision Transformer", arXiv 2311.05707. The authors published no code: this
is a reconstruction that meets their table of parameters and operations, and no accuracy of theirs is claimed for it.
"""

from edge.families.fmvit.family import FMViTFamily

FAMILY = FMViTFamily()
