"""DeepInversion (Yin et al., CVPR 2020): images out of a teacher alone.

`synthesis` makes a set of them and `adaptive` makes them while a student is trained. Both write batches (`batch_maker`,
`image_shards`), and `inversion` finds the images of each, as `settings` says.
"""
