"""Messages: one printable line, whatever a file wrote into them."""

import pytest

from pplfast.errors import MOST, UserError


@pytest.mark.parametrize(
    "text", ["a\0b", "two\nlines", "\x1b[31mred", "left\u202eright", "para\u2029graph", "\r", "\ud800"]
)
def test_what_does_not_print_is_written_out(text):
    message = str(UserError(f"x.csv: line 1 is {text!s}; remedy"))
    assert message.isprintable() and message.startswith("x.csv: line 1 is ") and message.endswith("; remedy")
    message.encode()  # a terminal can show it


def test_the_file_and_the_remedy_of_a_long_message_stay():
    message = str(UserError(f"x.csv: {'[' * 100_000}; delete it"))
    assert len(message) < MOST + 10 and message.startswith("x.csv: [") and message.endswith("; delete it")


def test_other_letters_stay():
    assert str(UserError("Straße 东京.csv: no such file")) == "Straße 东京.csv: no such file"
