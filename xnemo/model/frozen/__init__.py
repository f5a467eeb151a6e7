"""Networks that are never trained: autoencoders, image embedding, perceptual features."""
