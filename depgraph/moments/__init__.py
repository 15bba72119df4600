"""First and second moments of what the layers of a model read."""
