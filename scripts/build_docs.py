"""Build the documentation site into `site/` and fail on a broken link.

Markdown files link to files of the repository (`../CONTRIBUTING.md`), which MkDocs does not serve.
They are checked here, then MkDocs builds in strict mode on a copy where such links point to the
repository.

Usage: python scripts/build_docs.py [SITE_DIR]
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def broken_links(root: Path = ROOT) -> list[str]:
    """Return every relative link in the Markdown files under `root` that leads nowhere."""
    broken = []
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "infra").rglob("*.md")]
    for page in pages:
        for _, target, _, _ in _LINK.findall(page.read_text()):
            outside = "://" in target or target.startswith("mailto:")
            if not outside and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(root)}: {target}")
    return broken


def _outside_links_to_code(text: str, page: Path, docs: Path) -> str:
    """Turn links that leave `docs/` into inline code, as the site does not hold their targets."""

    def replace(match: re.Match[str]) -> str:
        opening, target, _, _ = match.groups()
        if "://" in target or (page.parent / target).resolve().is_relative_to(docs):
            return match.group(0)
        return opening.removeprefix("!")[1:-2] + f" (`{Path(target).name}`)"

    return _LINK.sub(replace, text)


def build(site: Path) -> int:
    """Build the site and return MkDocs' exit status."""
    with tempfile.TemporaryDirectory() as folder:
        docs = Path(folder) / "docs"
        shutil.copytree(ROOT / "docs", docs)
        for page in docs.rglob("*.md"):
            page.write_text(_outside_links_to_code(page.read_text(), page, docs))
        shutil.copy(ROOT / "mkdocs.yml", folder)
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
        return subprocess.run([*command, "--site-dir", site], cwd=folder, check=False).returncode


if __name__ == "__main__":
    if wrong := broken_links():
        sys.exit("broken links:\n" + "\n".join(wrong))
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve()))
