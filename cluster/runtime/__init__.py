"""All that knows Ray: actors, the calls between them, and what starts everything and keeps it alive."""
