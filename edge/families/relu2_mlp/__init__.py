"""Squared-ReLU MLP: a stack of up, relu(x)**2, down. Most hidden values are zero, and sparse kernels can skip those.

So et al., "Primer", arXiv 2109.08668 (the squared ReLU); Zhang et al., "ReLU^2 Wins", arXiv 2402.03804 (its sparsity).
"""

from edge.families.relu2_mlp.family import Relu2MLPFamily

FAMILY = Relu2MLPFamily()
