"""Breaks a running cluster in every way that one machine allows, with traffic, and says what held."""
