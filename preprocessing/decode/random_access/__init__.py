"""Optional backends that read frames by number: decord and torchcodec."""
