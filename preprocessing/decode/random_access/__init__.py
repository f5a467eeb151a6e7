"""Backends that read frames by number: decord and torchcodec."""
