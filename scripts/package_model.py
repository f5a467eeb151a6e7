"""Write the model of the package from a trained bundle: averaged weights in half precision.

python scripts/package_model.py runs/NAME/bundle
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from xnemo.model.builtin import BUILTIN, model_folder
from xnemo.training.checkpoint.bundle import bundle_config, read_meta, read_weights, save_bundle

# What animation, evaluation and fine-tuning start from; the GAN head starts anew.
_PARTS = ("denoiser.", "reference_net.", "motion_encoder.", "motion_readout.")
# Facts of the run that the bundle keeps.
_FACTS = ("samples_seen", "index_digest", "git", "metrics")


def main() -> None:
    """Convert a bundle."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    source = parser.parse_args().bundle
    meta = read_meta(source)
    tensors = read_weights(source, "ema", meta)
    half = {
        name: tensor.half() if tensor.dtype == torch.float32 else tensor
        for name, tensor in tensors.items()
        if name.startswith(_PARTS)
    }
    config = replace(bundle_config(source, meta), init_from=None)
    target = model_folder(BUILTIN)
    shutil.rmtree(target, ignore_errors=True)
    facts = {name: meta[name] for name in _FACTS if name in meta}
    # Loading takes averaged weights that are missing from the others, which are averaged, too.
    save_bundle(target, config, facts, raw=half, ema={})
    size = sum(file.stat().st_size for file in target.parent.rglob("*") if file.is_file())
    print(f"{target}: {len(half)} tensors; {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
