"""TSPulse (Ekambaram et al., arXiv 2505.13033): small pre-trained models of time series, in two spaces."""

from edge.families.tspulse.family import TSPulseFamily

FAMILY = TSPulseFamily()
