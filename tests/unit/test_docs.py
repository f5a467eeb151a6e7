"""The documentation: links lead somewhere, the site builds, the front page stays short."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import build_docs  # noqa: E402


def test_links_lead_somewhere():
    assert build_docs.broken_links() == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("[there](docs/here.md) and [gone](docs/gone.md#part)")
    (tmp_path / "docs" / "here.md").write_text("# Here")
    assert build_docs.broken_links(tmp_path) == ["README.md: docs/gone.md"]


def test_the_site_builds(tmp_path):
    assert build_docs.build(tmp_path) == 0
    assert (tmp_path / "training" / "index.html").is_file()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 900
