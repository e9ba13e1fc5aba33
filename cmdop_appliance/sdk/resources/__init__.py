# Made from sdk/aio/resources/__init__.py by scripts/fix: change it there.
"""What a client reaches, one noun a file."""
