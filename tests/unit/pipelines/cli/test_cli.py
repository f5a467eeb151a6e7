"""The command line: one line for bad input, exit statuses, suggestions, settings."""

import errno
import os
import shlex
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from pipelines.cli import main as cli
from pipelines.terminal.report import as_called, quoted, show_facts, show_next
from pipelines.train.job import TrainResult
from preprocessing.errors import UserError


def refusal(capsys, *arguments: str) -> str:
    """Run a command that must be refused and return its one line."""
    assert cli.run(list(arguments)) == cli.EXIT_BAD_INPUT
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err + printed.out
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "'train'"),
        (["train", "tinny", "--data", "x", "--run", "y"], "did you mean tiny?"),
        (["train", "tiny", "--data", "x", "--run", "y", "--adress", "z"], "--address"),
        (["train", "tiny", "--run", "y"], "--data"),
        (["train", "tiny", "--data", "x", "--run", "y", "optimiser.lr=1"], "optimizer.lr"),
        (["train", "tiny", "--data", "x", "--run", "y", "optimizer.lr=fast"], "optimizer.lr"),
        (["train", "tiny", "--data", "x", "--run", "y", "--optimiser.lr=1"], "optimizer.lr"),
        (["train", "tiny", "--data", "x", "--run", "y", "--optimizer.lr", "1"], "lr=VALUE"),
        (["train", "tiny", "--data", "x", "--run", "y", "--micro-batch=1"], "micro_batch"),
        (["train", "tiny", "--data", "x", "--run", "y", "--resume", "maybe"], "never"),
        (
            ["train", "tiny", "--data", "x", "--run", "y", "--max-steps", "1", "samples=4"],
            "only one of them",
        ),
        (["train", "--print-config"], "RECIPE"),
        (["doctor", "--print-config"], "give RECIPE"),
        (["train", "tiny", "--data", "x", "--run", "y", "--workers", "2:1"], "write a number"),
        (["train", "tiny", "--data", "x", "--run", "y", "--workers", "99"], "at most 16 workers"),
        (["preprocess"], "videos"),
        (["preprocess", "/no/such/folder", "out"], "/no/such/folder"),
        (["preprocess", ".", "out", "--detector", "centreface"], "'centerface'"),
        (["preprocess", ".", "out", "--config", "/no/such.yaml"], "/no/such.yaml"),
        (["inspect", "/no/such/thing"], "/no/such/thing"),
        (["recipes", "imag"], "image"),
        (["train", "tiny", "--data", "x", "--run", ".."], "--run '..'"),
        (["train", "tiny", "--data", "x", "--run", ""], "--run ''"),
        (["tune", "tiny", "--data", "x", "--space", "y", "--run", "a/b"], "--run 'a/b'"),
        (["demo", "--output-dir", "/proc/none"], "/proc/none"),
        (["demo", "--output-dir", __file__], "test_cli.py"),
        (["evaluate", "x", "y", "-o", "scores.csv"], "scores.csv is not a .json"),
        (["evaluate", "x", "y", "-o", f"{__file__}/a.json"], "nothing can be written in"),
        (["export", "x", "y", "--layout", "onnx"], "diffusers"),
    ],
)
def test_bad_input_is_refused_in_one_line_with_a_remedy(arguments, expected, capsys):
    assert expected in refusal(capsys, *arguments)


def test_a_full_disk_is_reported_in_one_line(capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    monkeypatch.setattr("pipelines.inspect.examine.inspect", full)
    assert "/data/x" in refusal(capsys, "inspect", "x")


def test_an_interrupt_reports_whether_the_command_resumes(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.inspect.examine.inspect", interrupted)
    monkeypatch.setattr("pipelines.train.job.train", interrupted)
    assert cli.run(["inspect", "x"]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert cli.run(["train", "tiny", "--data", "x", "--run", "y"]) == 130
    assert "again to resume" in capsys.readouterr().err
    # As Ray exits on SIGTERM.
    monkeypatch.setattr("pipelines.train.job.train", lambda *_, **__: sys.exit(signal.SIGTERM))
    assert cli.run(["train", "tiny", "--data", "x", "--run", "y"]) == 130
    assert "again to resume" in capsys.readouterr().err


def test_stopped_training_exits_as_interrupted(capsys, monkeypatch, tmp_path):
    stopped = TrainResult(tmp_path, tmp_path / "bundle", {}, 5, True, "sqlite:///x", None, 0, 1.0)
    monkeypatch.setattr("pipelines.train.job.train", lambda *_, **__: stopped)
    assert cli.run(["train", "tiny", "--data", "x", "--run", "y"]) == 130
    printed = capsys.readouterr()
    assert "5 (stopped early)" in printed.out
    assert "again to resume" in printed.err


def test_a_closed_pipe_is_not_an_error():
    command = [sys.executable, "-m", "pipelines.cli.main", "recipes", "image"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


def test_names_that_look_like_markup_are_printed_as_they_are(capsys):
    show_facts("made", {"folder": "/data/[red]/[/x]"})
    show_next(quoted("xnemo", "inspect", "/data/[bold] of/x"))
    printed = capsys.readouterr().out
    assert "/data/[red]/[/x]" in printed
    assert "xnemo inspect '/data/[bold] of/x'\n" in printed


def test_next_commands_work_in_this_shell(monkeypatch, tmp_path):
    programs = tmp_path / "my venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "xnemo"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    assert as_called("xnemo inspect x") == "'my venv/bin/xnemo' inspect x"
    assert as_called("open the report") == "open the report"
    monkeypatch.chdir(programs)
    assert as_called("xnemo") == "./xnemo"
    monkeypatch.setenv("PATH", str(programs))
    assert as_called("xnemo inspect x") == "xnemo inspect x"


def test_a_defect_keeps_its_traceback(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("pipelines.inspect.examine.inspect", broken)
    with pytest.raises(ZeroDivisionError):
        cli.run(["inspect", "x"])


def test_an_error_with_newlines_in_a_name_stays_one_line():
    assert "\n" not in str(UserError("a\nb", "rename\nit"))


def test_a_recipe_prints_as_yaml_that_overrides_accept(capsys, tmp_path):
    assert cli.run(["recipes", "tiny"]) == 0
    text = capsys.readouterr().out
    file = tmp_path / "tiny.yaml"
    file.write_text(text)

    from pipelines.cli.settings import configure
    from xnemo.recipes import get_recipe

    assert configure(get_recipe("image"), file, []) == get_recipe("tiny")
    assert yaml.safe_load(text)["network"]["image_size"] == 64


def test_the_version_is_the_installed_one(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"xnemo {version('xnemo')}\n"


def test_help_names_every_command(capsys):
    assert cli.run(["--help"]) == 0
    printed = capsys.readouterr().out
    for info in cli.app.registered_commands:
        assert info.name in printed


def test_a_dry_run_suggests_the_same_command(monkeypatch, capsys):
    from pipelines.preprocess.result import Forecast

    forecast = Forecast(1, 1, 2.0, 1, 1, 1.0, 2.0, 3.0, 0.1, 2.0, ())
    monkeypatch.setattr("pipelines.preprocess.forecast.forecast", lambda *args, **kwargs: forecast)
    words = ["preprocess", "my videos", "out", "tube.size=256", "--concurrency", "2"]
    assert cli.run([*words, "--dry-run"]) == 0
    command = capsys.readouterr().out.split("next: ")[1]
    assert shlex.split(command)[1:] == words


def test_a_face_model_dir_selects_insightface(tmp_path, capsys):
    (tmp_path / "a.mp4").touch()
    words = ["preprocess", str(tmp_path), str(tmp_path / "out"), "--face-model-dir", "/no/pack"]
    assert "the face model folder /no/pack does not exist" in refusal(capsys, *words)
    assert "which reads none" in refusal(capsys, *words, "--detector", "centerface")


def printed_config(capsys, *arguments: str) -> str:
    """Run a command with --print-config and return what it prints."""
    assert cli.run([*arguments, "--print-config"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["preprocess", "--tube.size=256"],
        ["train", "tiny", "--optimizer.lr=1e-4", "--samples=32"],
        ["tune", "small", "seed=3"],
        ["doctor", "tiny"],
        ["animate", "--steps", "4", "--seed", "5", "--vae", "/a folder"],
        ["ui", "--max_frames=3"],
        ["evaluate", "--limit", "2"],
        ["demo", "--people=3"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_printed_config_loads_back(arguments, capsys, tmp_path):
    text = printed_config(capsys, *arguments)
    file = tmp_path / "config.yaml"
    file.write_text(text)
    recipe = ["image"] if arguments[0] in ("train", "tune", "doctor") else []
    assert printed_config(capsys, arguments[0], *recipe, "--config", str(file)) == text


def test_a_printed_config_has_values_and_field_comments(capsys):
    words = ["train", "tiny", "--data", "x", "--run", "y", "--optimizer.lr=1e-4"]
    text = printed_config(capsys, *words, "--max-steps", "3")
    assert "# Seed of" in text or "# Decides every random number of the run.\nseed: 0\n" in text
    settings = yaml.safe_load(text)
    assert settings["optimizer"]["lr"] == 1e-4
    assert settings["samples"] == 3 * settings["global_batch"]
    text = printed_config(capsys, "preprocess", "videos", "out", "tube.size=256", "--limit", "2")
    assert "  # Side in pixels of the stored" in text
    assert "\n  size: 256\n" in text


def test_settings_with_and_without_dashes_are_equal(capsys):
    plain = printed_config(capsys, "train", "tiny", "optimizer.lr=1e-4", "seed=7")
    assert printed_config(capsys, "train", "tiny", "--seed=7", "--optimizer.lr=1e-4") == plain


def test_shells_complete_commands_and_options():
    def complete(words: str, count: int) -> str:
        environment = os.environ | {
            "_XNEMO_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(count),
        }
        command = [sys.executable, "-m", "pipelines.cli.main"]
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout

    assert complete("xnemo pre", 1).split() == ["preprocess"]
    assert "--runs-dir" in complete("xnemo train --r", 2)


def test_help_imports_no_heavy_library():
    code = (
        "import sys; from pipelines.cli.main import run; run(['--help']);"
        "heavy = {'torch', 'ray', 'numpy', 'pydantic', 'yaml', 'diffusers'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "library", "extra"),
    [
        ("train tiny --data x --run y", "ray", "train"),
        ("demo", "ray", "demo"),
        ("synthesize x --people 1 --seconds 1 --dry-run", "warp", "synthetic"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(
    command: str, library: str, extra: str, tmp_path: Path
) -> None:
    # In a process of its own, where nothing is imported yet; None makes the import fail.
    program = f"""if True:
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == {library!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        sys.meta_path.insert(0, Absent())
        from pipelines.cli.main import main
        main({command.split()!r})"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "is not installed" in line
    assert line.endswith(f"run: pip install 'xnemo[{extra}]'")
