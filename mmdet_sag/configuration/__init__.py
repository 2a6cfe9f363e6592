"""Configs for a user's own data."""
