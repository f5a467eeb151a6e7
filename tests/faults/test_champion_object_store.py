"""A champion in an S3-speaking store comes back whole."""

import fsspec
import pytest
import torch
from s3_server import BUCKET, s3_server
from tiny_run import nano_config

from pipelines.promote.champion import (
    Champion,
    bundle_name,
    champion_store,
    fetch_champion,
    publish_champion,
    read_champion,
)
from preprocessing.storage.store import open_store
from xnemo.training.checkpoint.bundle import read_meta, save_bundle


@pytest.fixture
def server(monkeypatch):
    clients = fsspec.get_filesystem_class("s3")
    clients.clear_instance_cache()
    with s3_server() as (environment, _):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield
    clients.clear_instance_cache()


def test_a_bundle_comes_back_whole_and_the_pointer_moves_last(server, tmp_path):
    url = f"s3://{BUCKET}/served"
    with champion_store(url) as store:
        assert read_champion(store) is None
        for number in range(2):
            bundle = tmp_path / f"run{number}" / "bundle"
            save_bundle(bundle, nano_config(), {}, raw={"denoiser.x": torch.full((9,), number)})
            champion = Champion(f"run{number}", bundle_name(f"run{number}", bundle), {"l1": 0.5})
            publish_champion(store, bundle, champion)
            assert read_champion(store) == champion
    folder = fetch_champion(open_store(url), champion, tmp_path / "cache")
    assert read_meta(folder)["files"] == read_meta(bundle)["files"]
