"""The routes that read documents, a file for each dialect."""
