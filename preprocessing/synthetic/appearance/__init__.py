"""Skin, hair, clothes and accessories of a person."""
