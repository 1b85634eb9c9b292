"""Texts that are not JSON, and what the original's parser says of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_cluster.api.json_complaint import complain

CASES = {
    b"no": "1, column 2: syntax error while parsing value - invalid literal; last read: 'no'",
    b"start=1": "1, column 1: syntax error while parsing value - invalid literal; last read: 's'",
    b"": "1, column 1: syntax error while parsing value - "
    "unexpected end of input; expected '[', '{', or a literal",
    b" ]": "1, column 2: syntax error while parsing value - "
    "unexpected ']'; expected '[', '{', or a literal",
    b"{": "1, column 2: syntax error while parsing object key - "
    "unexpected end of input; expected string literal",
    b"{a:1}": "1, column 2: syntax error while parsing object key - "
    "invalid literal; last read: '{a'; expected string literal",
    b'{"a":1,}': "1, column 8: syntax error while parsing object key - "
    "unexpected '}'; expected string literal",
    b'{"a" 1}': "1, column 6: syntax error while parsing object separator - "
    "unexpected number literal; expected ':'",
    b'{"a":1 "b":2}': "1, column 10: syntax error while parsing object - "
    "unexpected string literal; expected '}'",
    b'{"a":1} x': "1, column 9: syntax error while parsing value - "
    "invalid literal; last read: '1} x'; expected end of input",
    b"{}{}": "1, column 3: syntax error while parsing value - "
    "unexpected '{'; expected end of input",
    b"[1,2": "1, column 5: syntax error while parsing array - "
    "unexpected end of input; expected ']'",
    b'{"a":01}': "1, column 7: syntax error while parsing object - "
    "unexpected number literal; expected '}'",
    b'{"a":-}': "1, column 7: syntax error while parsing value - "
    "invalid number; expected digit after '-'; last read: '-}'",
    b"1.": "1, column 3: syntax error while parsing value - "
    "invalid number; expected digit after '.'; last read: '1.'",
    b"1ex": "1, column 3: syntax error while parsing value - "
    "invalid number; expected '+', '-', or digit after exponent; last read: '1ex'",
    b"1e+x": "1, column 4: syntax error while parsing value - "
    "invalid number; expected digit after exponent sign; last read: '1e+x'",
    b'"abc': "1, column 5: syntax error while parsing value - "
    "invalid string: missing closing quote; last read: '\"abc'",
    b'"a\nb"': "2, column 0: syntax error while parsing value - invalid string: control character "
    "U+000A (LF) must be escaped to \\u000A or \\n; last read: '\"a<U+000A>'",
    b'"\x01"': "1, column 2: syntax error while parsing value - invalid string: control character "
    "U+0001 (SOH) must be escaped to \\u0001; last read: '\"<U+0001>'",
    b'"\\q"': "1, column 3: syntax error while parsing value - "
    "invalid string: forbidden character after backslash; last read: '\"\\q'",
    b'"\\u00g0"': "1, column 6: syntax error while parsing value - "
    "invalid string: '\\u' must be followed by 4 hex digits; last read: '\"\\u00g'",
    b'"\\ud800x"': "1, column 8: syntax error while parsing value - invalid string: surrogate "
    "U+D800..U+DBFF must be followed by U+DC00..U+DFFF; last read: '\"\\ud800x'",
    b'"\\ud800\\u0041"': "1, column 13: syntax error while parsing value - invalid string: "
    "surrogate U+D800..U+DBFF must be followed by U+DC00..U+DFFF; last read: '\"\\ud800\\u0041'",
    b'"\\udc00"': "1, column 7: syntax error while parsing value - invalid string: surrogate "
    "U+DC00..U+DFFF must follow U+D800..U+DBFF; last read: '\"\\udc00'",
    b'"\xff"': "1, column 2: syntax error while parsing value - "
    "invalid string: ill-formed UTF-8 byte; last read: '\"\ufffd'",
    b'"\xe0\x80\x80"': "1, column 3: syntax error while parsing value - "
    "invalid string: ill-formed UTF-8 byte; last read: '\"\ufffd\ufffd'",
    b'{"a":\n\n  nope}': "3, column 4: syntax error while parsing value - "
    "invalid literal; last read: '\"a\":<U+000A><U+000A>  no'",
    b"[1\n,x]": "2, column 2: syntax error while parsing value - "
    "invalid literal; last read: '1<U+000A>,x'",
}


@pytest.mark.parametrize("text", CASES, ids=repr)
def test_a_text_that_is_not_json_is_told_so_in_the_original_s_words(text: bytes) -> None:
    assert complain(text) == f"[json.exception.parse_error.101] parse error at line {CASES[text]}"


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b" [ ] ",
        b"0",
        b"-0.5e-7",
        b"1E9",
        b'"\\u00e9\\n\\/\\ud83d\\ude00"',
        '"é日😀"'.encode(),
        b'{"a":[1,{},[]],"b":null,"c":true,"d":false,"e":{"f":"g"}}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_json_is_no_reason_to_complain(text: bytes) -> None:
    assert complain(text) is None


def test_a_text_may_be_nested_as_deep_as_it_is_long() -> None:
    assert complain(b"[" * 30_000 + b"]" * 30_000) is None
    assert "unexpected end of input" in (complain(b"[" * 60_000) or "")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.booleans())
def test_what_python_writes_as_json_is_json(value: object, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii)

    assert complain(text.encode("utf-8", "replace")) is None


def is_json(text: bytes) -> bool:
    def refuse(_: str) -> float:
        raise ValueError

    try:
        json.loads(text.decode(), parse_constant=refuse)
    except ValueError:
        return False
    return True


@given(st.lists(st.sampled_from([*'{}[]:,"\\ \n01.-+eEntfu', "a", "true", "null"]), max_size=12))
def test_it_complains_about_exactly_what_python_refuses(parts: list[str]) -> None:
    text = "".join(parts).encode()

    complaint = complain(text)

    assert (complaint is None) is is_json(text)


@given(st.binary(max_size=40))
def test_any_bytes_get_an_answer(text: bytes) -> None:
    complaint = complain(text)

    assert complaint is None or complaint.startswith("[json.exception.parse_error.101] ")
