"""How much a source may ask for before it is refused; nothing honest comes near these."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeLimits:
    """Bounds on what one source can make a decoder allocate or loop over."""

    # Pixels of one coded picture: 8192 × 4608, above 8K.
    max_pixels: int = 8192 * 4608
    # Streams in one container; broadcast captures stay under a hundred.
    max_streams: int = 256
    # Errors in a row without one decoded frame between them, after which the rest is given up.
    max_errors_in_a_row: int = 2000
