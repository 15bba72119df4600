"""New values for what a plan leaves, from data without labels."""
