"""The check of the installation: nothing to say here, and two lines for each fault."""

import re

import pytest
from answers import Answer, submit
from emulator_case import needs_compiler

import tiny
from tutorial import check_install as doctor


def test_here_all_is_well(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    assert doctor.main([]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in printed[: len(doctor.CHECKS)]] == ["ok    "] * len(doctor.CHECKS)
    assert printed[-1] == "All is well." and any("make student" in line for line in printed)


def spoil_version(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.sys, "version_info", type("V", (tuple,), {"major": 3, "minor": 9})((3, 9)))


def spoil_package(monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("numpy>=999\nno-such-package-here>=1  # why\n\n# a comment\npillow\n")
    monkeypatch.setattr(doctor.packages, "__defaults__", (tmp_path / "requirements.txt",))


def spoil_model(monkeypatch, tmp_path):
    def load(name):
        raise OSError(f"{name} is damaged")
    monkeypatch.setattr(tiny, "load", load)


def spoil_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ROOT", tmp_path / "nowhere")


def spoil_student(monkeypatch, tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student/rope.py").write_text("x = 1\ndef rope(:\n")


def spoil_kernel(monkeypatch, tmp_path):
    submit(tmp_path / "student", Answer("11.1", "", "return value +;"))


@pytest.mark.parametrize(("spoil", "words"), [
    pytest.param(spoil_kernel, ["student/rms_norm.cu does not compile: rms_norm.cu:"], marks=needs_compiler),
    (spoil_version, ["This is Python 3.9"]), (spoil_package, ["numpy is", "no-such-package-here cannot be imported"]),
    (spoil_model, ["tiny-mixtral does not run: OSError: tiny-mixtral is damaged", "tiny-pixtral does not run"]),
    (spoil_folder, ["cannot be written to: No such file"]), (spoil_student, ["student/rope.py, line 2 is no Python"])])
def test_a_fault_is_two_lines(spoil, words, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    spoil(monkeypatch, tmp_path)
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    found = re.findall(r"^error: (.*)\nremedy: .+$", out, re.M)
    assert "--force" not in out, "no remedy costs work"
    assert len(found) == len(words) and all(word in line for word, line in zip(words, found)), found
