"""A command gets its fair share of the machine: its threads do not spin while they wait, and what
memory it freed it takes again."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import ROOT, tiny

from equipoise import cli
from equipoise.commands.train import train_run
from equipoise.comparison.compare import compare
from equipoise.comparison.diagnosis import diagnose
from equipoise.comparison.evaluation import evaluate
from equipoise.comparison.sweep import Comparison
from equipoise.data.scan import Scan
from equipoise.errors import UserError
from equipoise.learning import pretrain as pretrain_module
from equipoise.machine import (
    DRAFT,
    alone,
    check_writable,
    is_empty,
    json_text,
    whole_folder,
    write_whole,
)
from equipoise.run import Run

CODE = (
    "import os, sys; import equipoise.cli; "
    "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
)


def spin_count(**environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_set_before_torch_is_loaded():
    """libgomp reads its environment once, when torch loads it."""
    assert spin_count() == "0 False"


def test_what_the_user_asked_for_stays():
    assert spin_count(GOMP_SPINCOUNT="100") == "100 False"


class TestWholeFiles:
    def test_a_full_disk_leaves_what_was_there(self, tmp_path, monkeypatch):
        file = tmp_path / "folder" / "config.yaml"
        write_whole(file, "before: ä")

        def half(path, text, encoding):
            with path.open("w", encoding=encoding) as open_file:
                open_file.write(text[: len(text) // 2])
            raise OSError("No space left on device")

        monkeypatch.setattr(Path, "write_text", half)
        with pytest.raises(OSError, match="No space left"):
            write_whole(file, "after: something longer")
        assert file.read_text(encoding="utf-8") == "before: ä"
        monkeypatch.undo()
        assert list(file.parent.iterdir()) == [file]
        write_whole(file, "after")
        assert file.read_text() == "after"
        assert list(file.parent.iterdir()) == [file]

    def test_json_has_no_nan(self):
        value = {"a": [1.5, math.nan, (math.inf, 2)], "b": {"c": -math.inf}, "d": None, "e": "NaN"}
        text = json_text(value)
        assert text == '{"a": [1.5, null, [null, 2]], "b": {"c": null}, "d": null, "e": "NaN"}'

    def test_a_folder_is_whole_or_empty(self, tmp_path):
        out = tmp_path / "deep" / "out"

        def half():
            with whole_folder(out) as folder:
                (folder / "a.txt").write_text("half")
                raise OSError("full")

        for attempt in range(3):
            (out / f"unfinished{DRAFT}" / "left").mkdir(
                parents=True, exist_ok=True
            )  # of one killed
            if attempt < 2:
                with pytest.raises(OSError, match="full"):
                    half()
                assert is_empty(out)
        with whole_folder(out) as folder:
            (folder / "a.txt").write_text("whole")
            (folder / "inner").mkdir()
            (folder / "inner" / "b.txt").write_text("b")
        assert sorted(path.name for path in out.iterdir()) == ["a.txt", "inner"]
        assert (out / "inner" / "b.txt").read_text() == "b"

    def test_drafts_of_the_user_s_are_none_of_ours(self, tmp_path):
        (tmp_path / "chapter.draft").write_text("mine")
        assert not is_empty(tmp_path)
        with whole_folder(tmp_path) as folder:
            (folder / "a.txt").write_text("a")
        assert (tmp_path / "chapter.draft").read_text() == "mine"

    def test_several_writers_and_a_reader(self, tmp_path):
        file, texts = tmp_path / "a.txt", ["a" * 5000, "b" * 9000]
        write_whole(file, texts[0])

        def write(text):
            for _ in range(100):
                write_whole(file, text)

        with ThreadPoolExecutor(2) as pool:
            writers = [pool.submit(write, text) for text in texts]
            while not all(writer.done() for writer in writers):
                assert file.read_text() in texts
            for writer in writers:
                writer.result()

    def test_what_a_killed_command_had_begun_is_in_nobody_s_way(self, tmp_path):
        assert is_empty(tmp_path)
        (tmp_path / f"config.yaml.12-34{DRAFT}").write_text("na")
        assert is_empty(tmp_path)
        (tmp_path / "mine.txt").write_text("mine")
        assert not is_empty(tmp_path)

    @pytest.mark.parametrize("room", ["comparison", "assessment"])
    def test_no_room_that_is_read_again_writes_otherwise(self, room):
        """Tables, scores and settings of a comparison that was killed are read when it goes on."""
        for file in (ROOT / "src/equipoise" / room).glob("*.py"):
            assert ".write_text(" not in file.read_text(), file


def test_make_does_so_too():
    assert "export GOMP_SPINCOUNT := 0" in (ROOT / "Makefile").read_text()


#: Pages that are cleared for the system's sake while 40 × 64 MiB are filled and freed.
FAULTS = """
import resource, sys, torch
from equipoise.machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    keep_freed_memory()
faults()
print(faults())
"""


def page_faults(way: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, way],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_what_was_freed_is_taken_again():
    in_a_round = 40 * 2**26 // os.sysconf("SC_PAGESIZE")
    handed_back = page_faults("handed back")
    assert page_faults("kept") < 0.05 * in_a_round
    users = page_faults("kept", MALLOC_MMAP_THRESHOLD_="1048576")
    assert users > 0.5 * handed_back, "whoever asked for something else did not get it"


def test_the_command_line_keeps_it(monkeypatch):
    called = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: called.append("kept"))
    monkeypatch.setattr(cli, "app", lambda: called.append("run"))
    cli.main()
    assert called == ["kept", "run"]


HOLDS = """
import os, sys, time
from pathlib import Path
from equipoise.machine import alone
with alone(Path(sys.argv[1])) as nobody_else:
    helper = os.fork()
    if not helper:
        time.sleep(60)
        os._exit(0)
    print(nobody_else, helper, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no such locks here")
def test_a_folder_is_for_one_process_as_long_as_it_lives(tmp_path):
    """Whoever it has started lives on: that is no reason to keep others out."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    got, helper = holder.stdout.readline().split()
    try:
        assert got == "True"
        with alone(tmp_path) as nobody_else:
            assert not nobody_else
        holder.kill()
        holder.wait()
        with alone(tmp_path) as nobody_else, alone(tmp_path / ".") as again:
            assert (nobody_else, again) == (True, False)
    finally:
        os.kill(int(helper), 9)


class TestWhereNothingCanBeWritten:
    """Every command that works for long says so before it works."""

    @pytest.fixture
    def nowhere(self, tmp_path):
        (tmp_path / "file").write_text("")
        return tmp_path / "file" / "deep" / "folder"

    @pytest.mark.parametrize("command", ["train", "evaluate", "diagnose", "compare", "pretrain"])
    def test_it_is_said_before_any_work(self, tmp_path, nowhere, monkeypatch, command):
        worked = []
        monkeypatch.setattr(Scan, "measure", lambda *given, **more: worked.append("measured"))
        monkeypatch.setattr(pretrain_module, "synthetic", lambda *given: worked.append("drawn"))
        config = tiny(nowhere)
        scan = Scan.planned(config.physics, config.data.size).with_noise(0.01)
        run = Run(tmp_path, config, scan, config.model.make(1, scan.noise).eval())
        commands = {
            "train": lambda: train_run(config, worked.append),
            "evaluate": lambda: evaluate(run, folder=nowhere),
            "diagnose": lambda: diagnose(run, [], folder=nowhere),
            "compare": lambda: compare(Comparison(config, [], nowhere, 1)),
            "pretrain": lambda: pretrain_module.pretrain(nowhere / "a.safetensors", 1),
        }
        with pytest.raises(UserError, match=r"folder: nothing can be written there .*another"):
            commands[command]()
        assert not worked
        assert list(tmp_path.iterdir()) == [tmp_path / "file"]

    def test_what_can_be_made_is_not_refused_and_not_made(self, tmp_path):
        check_writable(tmp_path)
        check_writable(tmp_path / "a" / "b")
        assert not list(tmp_path.iterdir())
