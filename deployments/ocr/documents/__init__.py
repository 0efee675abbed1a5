"""Models that write down what is on a page, token by token."""
