"""From the names in terms to tensors and connectors, on one batch."""
