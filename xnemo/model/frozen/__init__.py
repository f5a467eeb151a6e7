"""Networks that are never trained: autoencoder, image embedding, perceptual features."""
