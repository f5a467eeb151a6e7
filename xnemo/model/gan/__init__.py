"""GAN head, discriminator and adversarial losses."""
