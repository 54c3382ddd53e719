"""Codes beside reasons: one table in Python and in the messages."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from lens_ros.codes import Code, Coded, code_of

ROOT = Path(__file__).parents[1]
TABLE = {code.name: code.value for code in Code}


def test_the_message_holds_the_same_constants() -> None:
    text = (ROOT / "msg" / "Code.msg").read_text()
    constants = {
        name: int(value) for name, value in re.findall(r"^uint8 ([A-Z_]+)=(\d+)", text, re.MULTILINE)
    }
    assert constants == {code.name: code.value for code in Code}


def test_the_built_message_holds_them_too() -> None:
    message = pytest.importorskip("lens_ros.msg").Code
    assert {code.name: getattr(message, code.name) for code in Code} == {
        code.name: code.value for code in Code
    }


def test_a_coded_reason_is_a_string() -> None:
    reason = Coded("try again later", Code.BUSY)
    assert reason == "try again later" and f"{reason}." == "try again later."
    assert code_of(reason) is Code.BUSY
    again = pickle.loads(pickle.dumps(reason))
    assert again == reason and again.code is Code.BUSY


def test_a_plain_reason_has_no_code() -> None:
    assert code_of("") is Code.OK and code_of("because") is Code.UNSPECIFIED
