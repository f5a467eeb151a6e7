"""The committed option reference is the generator's output."""

from scripts.generate_option_reference import PAGE, render


def test_the_option_reference_is_current():
    assert PAGE.read_text() == render(), "run: python scripts/generate_option_reference.py"
