"""The GAN head, its discriminator and the adversarial losses."""
