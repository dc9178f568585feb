"""PLM: small language models with latent attention and squared ReLUs. Deng et al., arXiv 2503.12167."""

from edge.families.plm.family import PLMFamily

FAMILY = PLMFamily()
