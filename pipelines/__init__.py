"""Where Ray, MLflow and the command line live: jobs built from `preprocessing` and `xnemo`."""

import os

# Ray reads this when it is imported. Under `uv run` it would ship the working folder to its workers
# and build the environment there again; ours run in the environment of their machine.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
