"""The command line's manners: one line for bad input, the right status, a near miss named."""

import errno
import shlex
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml

from pipelines.cli import main as cli
from pipelines.terminal.program import as_called
from pipelines.terminal.report import quoted, show_facts, show_next
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
        (["demo", "--out", "/proc/none"], "/proc/none"),
        (["demo", "--out", __file__], "test_cli.py"),
        (["evaluate", "x", "y", "-o", "scores.csv"], "scores.csv is no .json"),
        (["evaluate", "x", "y", "-o", f"{__file__}/a.json"], "nothing can be written in"),
        (["export", "x", "y", "--layout", "onnx"], "diffusers"),
    ],
)
def test_bad_input_is_one_line_that_names_thing_and_remedy(arguments, expected, capsys):
    assert expected in refusal(capsys, *arguments)


def test_a_full_disk_is_told_in_one_line(capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    monkeypatch.setattr("pipelines.inspect.examine.inspect", full)
    assert "/data/x" in refusal(capsys, "inspect", "x")


def test_an_interrupt_says_whether_the_command_goes_on(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.inspect.examine.inspect", interrupted)
    monkeypatch.setattr("pipelines.train.job.train", interrupted)
    assert cli.run(["inspect", "x"]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert cli.run(["train", "tiny", "--data", "x", "--run", "y"]) == 130
    assert "again to go on" in capsys.readouterr().err
    # As Ray ends a process that is told to.
    monkeypatch.setattr("pipelines.train.job.train", lambda *_, **__: sys.exit(signal.SIGTERM))
    assert cli.run(["train", "tiny", "--data", "x", "--run", "y"]) == 130
    assert "again to go on" in capsys.readouterr().err


def test_training_that_was_stopped_is_not_done(capsys, monkeypatch, tmp_path):
    stopped = TrainResult(tmp_path, tmp_path / "bundle", {}, 5, True, "sqlite:///x", None, 0, 1.0)
    monkeypatch.setattr("pipelines.train.job.train", lambda *_, **__: stopped)
    assert cli.run(["train", "tiny", "--data", "x", "--run", "y"]) == 130
    printed = capsys.readouterr()
    assert "5 (stopped early)" in printed.out
    assert "again to go on" in printed.err


def test_a_reader_that_leaves_is_no_error():
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


def test_the_next_command_is_one_that_this_shell_finds(monkeypatch, tmp_path):
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

    from pipelines.cli.options import configure
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


def test_what_a_dry_run_says_to_run_next_is_what_it_forecast(monkeypatch, capsys):
    from pipelines.preprocess.result import Forecast

    forecast = Forecast(1, 1, 2.0, 1, 1, 1.0, 2.0, 3.0, 0.1, 2.0)
    monkeypatch.setattr("pipelines.preprocess.job.forecast", lambda *args, **kwargs: forecast)
    words = ["preprocess", "my videos", "out", "tube.size=256", "--workers", "2"]
    assert cli.run([*words, "--dry-run"]) == 0
    command = capsys.readouterr().out.split("next: ")[1]
    assert shlex.split(command)[1:] == words


def test_who_names_a_pack_means_the_detector_that_reads_packs(tmp_path, capsys):
    (tmp_path / "a.mp4").touch()
    words = ["preprocess", str(tmp_path), str(tmp_path / "out"), "--faces-pack", "/no/pack"]
    assert "no faces pack at /no/pack" in refusal(capsys, *words)
    assert "reads no pack" in refusal(capsys, *words, "--detector", "centerface")
