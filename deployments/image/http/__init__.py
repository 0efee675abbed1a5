"""The routes of image models, a file for each dialect."""
