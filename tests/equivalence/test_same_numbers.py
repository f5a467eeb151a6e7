"""Settings of execution do not change the numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xnemo.training.loop import run_training

SETTINGS = {"samples": 12, "checkpoint__every_samples": 1000, "optimizer__eps": 1e-3}


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory, faces: Path, nano: Callable[..., Any]
) -> Callable[..., Path]:
    """Run with changed settings, in this process."""
    base = tmp_path_factory.mktemp("same")

    def run(name: str, callbacks: tuple[Any, ...] = (), **changes: Any) -> Path:
        folder = base / name
        if not folder.exists():
            run_training(nano(**{**SETTINGS, **changes}), str(faces), folder, callbacks=callbacks)
        return folder

    return run


def test_accumulation_is_a_larger_batch(
    plain: Callable[..., Path],
    weights_of: Callable[..., Any],
    assert_close_weights: Callable[..., None],
) -> None:
    """Four passes of one sample equal one pass of four, with batch statistics frozen."""
    frozen = {"engine__batch_norm": "frozen"}
    whole = plain("whole", **frozen)
    split = plain("split", **frozen, micro_batch=1)
    assert_close_weights(weights_of(split), weights_of(whole), tolerance=1e-6)


def test_batch_statistics_are_what_accumulation_costs(
    plain: Callable[..., Path],
    weights_of: Callable[..., Any],
    assert_close_weights: Callable[..., None],
) -> None:
    """Otherwise a pass of one sample is normalised by itself, and the motion encoder differs."""
    whole, split = plain("bn whole"), plain("bn split", micro_batch=1)
    with pytest.raises(AssertionError):
        assert_close_weights(
            weights_of(split), weights_of(whole), tolerance=1e-4, skip=("num_batches_tracked",)
        )


def test_gradient_checkpointing_changes_nothing(
    plain: Callable[..., Path],
    weights_of: Callable[..., Any],
    assert_close_weights: Callable[..., None],
) -> None:
    """With dropout on: the recomputed pass drops the same activations."""
    off, on = plain("bn whole"), plain("recompute", engine__gradient_checkpointing=True)
    assert_close_weights(weights_of(on), weights_of(off), tolerance=1e-7)


class Listener:
    """Looks at everything."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


def test_callbacks_change_nothing(
    plain: Callable[..., Path],
    weights_of: Callable[..., Any],
    assert_same_bits: Callable[..., None],
) -> None:
    """Validation, frequent logs and checkpoints, callbacks and speed measurements: same bits."""
    quiet = plain("quiet", log_every=1000)
    watched = plain(
        "watched",
        callbacks=(Listener(),),
        log_every=1,
        checkpoint__every_samples=4,
        validation__every_samples=4,
        validation__samples=4,
        engine__peak_tflops=None,
        data__threads=3,
        data__prefetch=5,
    )
    assert_same_bits(weights_of(watched), weights_of(quiet))
