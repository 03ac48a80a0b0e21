"""The page of fer-demo, and what guards it."""
