"""The routes of text models, a file for each dialect."""
