"""The X-NeMo network: denoiser, reference network, motion encoder, GAN head and frozen parts."""
