"""Tables on disk of rows of equal width, found by the hash of an image; they know nothing of what is stored in them."""
