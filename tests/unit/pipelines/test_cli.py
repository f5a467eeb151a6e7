"""The command line's manners: one line for bad input, the right status, a near miss named."""

import errno

import pytest
import yaml

from pipelines import cli
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
    ],
)
def test_bad_input_is_one_line_that_names_thing_and_remedy(arguments, expected, capsys):
    assert expected in refusal(capsys, *arguments)


def test_a_full_disk_is_told_in_one_line(capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    monkeypatch.setattr("pipelines.inspect.inspect", full)
    assert "/data/x" in refusal(capsys, "inspect", "x")


def test_a_defect_keeps_its_traceback(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("pipelines.inspect.inspect", broken)
    with pytest.raises(ZeroDivisionError):
        cli.run(["inspect", "x"])


def test_an_error_with_newlines_in_a_name_stays_one_line():
    assert "\n" not in str(UserError("a\nb", "rename\nit"))


def test_a_recipe_prints_as_yaml_that_overrides_accept(capsys, tmp_path):
    assert cli.run(["recipes", "tiny"]) == 0
    text = capsys.readouterr().out
    file = tmp_path / "tiny.yaml"
    file.write_text(text)

    from pipelines.commands.options import configure
    from xnemo.train.recipes import get_recipe

    assert configure(get_recipe("image"), file, []) == get_recipe("tiny")
    assert yaml.safe_load(text)["network"]["image_size"] == 64


def test_help_names_every_command(capsys):
    assert cli.run(["--help"]) == 0
    printed = capsys.readouterr().out
    for info in cli.app.registered_commands:
        assert info.name in printed
