"""What a search cannot use is refused before Ray starts."""

from pathlib import Path

import pytest
from tiny_run import nano_config

from pipelines.tune import job
from pipelines.tune.trials import Trial, write_trial
from preprocessing.errors import UserError

RATE = "optimizer.lr: {loguniform: [1e-4, 1e-3]}\n"


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (RATE + "global_batch: {choice: [4, 8]}", {"scheduler": "pbt"}, "global_batch cannot"),
        (RATE + "network.image_size: {choice: [16, 32]}", {"scheduler": "pbt"}, "cannot change"),
        (RATE, {"scheduler": "pbt", "exchange_samples": 48}, "48 samples between exchanges"),
        (RATE, {"scheduler": "pbt", "trials": 1}, "one trial is no population"),
        (RATE, {"scheduler": "pbt", "searcher": "optuna"}, "takes none from optuna"),
        (RATE, {"exchange_samples": 8}, "exchange_samples is 8 and the scheduler asha"),
        ("loss.l1: {grid: [1, 2]}", {"searcher": "optuna"}, "loss.l1 is a grid"),
        ("loss.l1: {grid: [1, 2]}", {}, "search first varies optimizer.lr, and the space loss.l1"),
    ],
)
def test_errors_come_at_once_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: str, options: dict, message: str
) -> None:
    def connect(address: str | None) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(job, "connect", connect)
    write_trial_of_an_earlier_call(tmp_path / "first")
    (tmp_path / "space.yaml").write_text(space)
    with pytest.raises(UserError, match=message) as refusal:
        job.tune(
            nano_config(), tmp_path / "space.yaml", "nowhere", "first",
            runs_dir=tmp_path, **options,
        )  # fmt: skip
    assert "\n" not in str(refusal.value)


def write_trial_of_an_earlier_call(folder: Path) -> None:
    folder.mkdir()
    write_trial(folder, Trial("trial-00000", {"optimizer.lr": 1e-3}, "diffusion"))
