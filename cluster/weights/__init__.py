"""What is on disk: where weights are found, fetched from, and how large they are."""
