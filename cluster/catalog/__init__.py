"""Which models there are, built in and registered."""
