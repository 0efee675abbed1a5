"""What users import to speak to a cluster over HTTP."""
