"""Help and usage of every command: examples that parse, defaults in words, groups, near misses, and a quick start."""

import os
import resource
import shlex
import subprocess
import sys

import pytest

from pplfast.cli import build_parser, main
from pplfast.cli.examples import EXAMPLES
from pplfast.cli.parser import GROUPS, CommandParser

COMMANDS = build_parser().every_command()
# what these do not change stays as the recipe has it, and nothing is traced
WITHOUT_DEFAULT = {"--set", "--deepspeed", "--seed", "--profile"}
HEAVY = {"torch", "numpy", "PIL", "matplotlib", "tensorboard", "rich", "deepspeed", "nvidia"}


def options(parser: CommandParser):
    return [action for action in parser._actions if action.option_strings and action.dest not in ("help", "version")]


@pytest.mark.parametrize("prog", EXAMPLES)
def test_every_example_is_a_command_that_parses(prog):
    assert f"pplfast {prog}".strip() in COMMANDS
    for _, command in EXAMPLES[prog]:
        words = shlex.split(command.partition(" > ")[0])
        assert words[0] == "pplfast" and " ".join(words).startswith("pplfast")
        args = build_parser(words[1]).parse_args(words[1:])
        if args.command == "launch":
            build_parser(args.arguments[0]).parse_args(args.arguments)


def test_every_command_has_examples():
    benches = {prog for prog in COMMANDS if prog.startswith("pplfast bench ")}  # those of `pplfast bench` serve them
    assert {f"pplfast {prog}".strip() for prog in EXAMPLES} == set(COMMANDS) - benches


@pytest.mark.parametrize("columns", (80, 120))
@pytest.mark.parametrize("prog", COMMANDS)
def test_the_help_of_every_command_fits(prog, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = COMMANDS[prog].format_help()
    assert max(map(len, text.splitlines())) <= columns
    assert text.startswith(f"usage: {prog}") and text.count("usage: ") == 1
    examples = [line for line in text.splitlines() if line.startswith("    pplfast ")]
    assert len(examples) == len(EXAMPLES.get(prog.removeprefix("pplfast").strip(), ()))


@pytest.mark.parametrize("prog", COMMANDS)
def test_the_default_of_every_option_is_in_words(prog):
    for action in options(COMMANDS[prog]):
        if action.required or action.nargs == 0 or set(action.option_strings) & WITHOUT_DEFAULT:
            continue
        text = action.help or ""
        exclusive = any(action in group._group_actions for group in COMMANDS[prog]._mutually_exclusive_groups)
        if text == "==SUPPRESS==" or exclusive:
            continue
        assert "default: " in text or "(without " in text, f"{action.option_strings[0]}: {text!r}"
        assert not text.startswith("default") and "the recipe's)" not in text, f"{action.option_strings[0]}: {text!r}"


@pytest.mark.parametrize("prog", COMMANDS)
def test_options_stand_in_their_groups(prog):
    parser = COMMANDS[prog]
    titled = {action.dest: group.title for group in parser._action_groups for action in group._group_actions}
    for title, names in GROUPS.items():
        for action in options(parser):
            if action.option_strings[0] in names:
                assert titled[action.dest] in (title, "with --model"), action.option_strings
    shown = [group.title for group in parser._action_groups if f"\n{group.title}:\n" in parser.format_help()]
    ordered = [title for title in GROUPS if title in shown]
    assert [title for title in shown if title in GROUPS] == ordered and shown[-1] == "options"  # --help comes last
    if "data" in titled and not prog.startswith("pplfast bench"):
        assert titled["data"] == titled["classes"] == "data set"


def test_the_data_set_is_explained_once():
    long = COMMANDS["pplfast data check"].format_help()
    assert "cls_labels.npy" in long and "--train-list" in long.replace("\n" + " " * 20, "")
    for prog in ("pplfast train", "pplfast cam", "pplfast submit", "pplfast segment test"):
        text = COMMANDS[prog].format_help()
        assert "`pplfast data check --help`" in text.replace("\n  ", " ")
        assert "--masks" not in text
        assert ("--skip-difficult" in text) == (prog in ("pplfast train", "pplfast cam"))
    words = ["--data", "x", "--model", "m", "--out", "o", "--masks", "d", "--skip-difficult"]
    assert build_parser("cam").parse_args(["cam", *words]).masks == "d"  # one description of the data for all commands


MISTAKES = (
    (["trian"], "unknown command 'trian'; did you mean train?", "usage: pplfast COMMAND"),
    (["classify"], "unknown command 'classify'; choose from data, init, recipes, run,", "usage: pplfast COMMAND"),
    (["data", "chekc"], "did you mean check?", "usage: pplfast data ACTION"),
    (["label", "--treads", "1"], "--treads; did you mean --threads?", "usage: pplfast label --data ROOT (--model"),
    (["run", "--data", "x", "--list", "y"], "--list; did you mean --val-list or --test-list?", "usage: pplfast run"),
    (["train", "--recpie", "demo"], "--recpie; did you mean --recipe?", "usage: pplfast train"),
    (["train", "--variant", "plian"], "plian: choose from plain, ppl, explicit; did you mean plain?", "pplfast train"),
    (["run", "--data", "x"], "required: --out", "usage: pplfast run --data ROOT --out RUN [options]"),
    (
        ["eval", "--data", "x", "--pngs", "y", "--classes", "cat", "bus"],
        "bus: not understood; several values of one option are written cat,dog",
        "usage: pplfast eval",
    ),
    (["report", "a", "b"], "b: not understood", "usage: pplfast report [options] RUN"),
    (["launch", "--ranks", "2", "train", "--data", "x"], "pplfast train: error: ", "usage: pplfast train --data"),
)


@pytest.mark.parametrize(
    "words, message, usage", MISTAKES, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_a_mistake_is_answered_by_its_own_command(words, message, usage, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        main(words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and usage in error and error.count("\n") <= 4
    assert " --help\n" in error


@pytest.mark.parametrize("words", ([], ["data"], ["segment"]))
def test_without_a_command_the_list_is_shown(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    error = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and "examples:" in error
        and error.endswith("error: name a command; they are listed above\n")
    )


@pytest.mark.slow
def test_no_help_waits_for_heavy_packages():
    code = (
        "import sys; from pplfast.cli import build_parser\n"
        "for parser in build_parser().every_command().values(): parser.format_help()\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def cpu_seconds(*arguments: str) -> float:
    """Best of three. The time of the processor, which a busy machine does not stretch as it does the clock."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=os.environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.mark.slow
def test_help_and_import_take_no_time():
    assert cpu_seconds("-m", "pplfast", "--help") < 0.3
    assert cpu_seconds("-c", "import pplfast") < 0.2
