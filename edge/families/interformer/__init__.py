"""InterFormer: objects cut out of pictures by clicks; an encoder for a strong machine, and a click for the device.

Huang et al., "InterFormer: Real-time Interactive Image Segmentation", ICCV 2023, arXiv 2304.02942.
"""

from edge.families.interformer.family import InterFormerFamily

FAMILY = InterFormerFamily()
