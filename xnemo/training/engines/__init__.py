"""Training engines: plain PyTorch or DDP, and DeepSpeed ZeRO, behind one protocol."""
