"""Images: loading, classes, preprocessing, batches, augmented views and the random numbers of them."""
