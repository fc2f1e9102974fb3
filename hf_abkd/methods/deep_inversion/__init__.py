"""DeepInversion (Yin et al., CVPR 2020): images out of a teacher alone."""
