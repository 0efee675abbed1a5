"""What computes: one launched model behind its queue. Runs in each worker actor, and knows no Ray."""
