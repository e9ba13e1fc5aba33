"""What a client reaches, one noun a file."""
