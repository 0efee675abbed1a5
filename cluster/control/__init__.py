"""What decides: the supervisor, and the plain functions it decides with. Runs in the supervisor actor; knows no Ray."""
