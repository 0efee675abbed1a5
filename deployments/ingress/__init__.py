"""The HTTP side: every dialect, the control routes, and the way from a request to a worker."""
