"""Breaks a running cluster under traffic in every way that one machine allows, and reports what held."""
