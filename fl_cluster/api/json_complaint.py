"""What is wrong with a text that should be JSON, in the words of the original's parser.

That parser (nlohmann's) reads byte by byte and tells where it stopped: line and column of the
last byte it has read, and what it has read since the last string or number began.  Tools
search its sentences, so this follows it step by step; it is asked only about texts that
Python's parser has refused, and only about short ones.
Invariant: every step reads a byte or ends; nothing is called in a cycle.
"""

from __future__ import annotations

from enum import StrEnum

WHITESPACE = frozenset(b" \t\n\r")
DIGITS = frozenset(b"0123456789")
HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")
SIMPLE_ESCAPES = frozenset(b'"\\/bfnrt')
ESCAPES = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
CONTROL_NAMES = (
    *("NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF", "CR"),
    *("SO", "SI", "DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB"),
    *("ESC", "FS", "GS", "RS", "US"),
)
END = -1


class Token(StrEnum):
    """What the scanner finds, as the sentences name it."""

    TRUE = "true literal"
    FALSE = "false literal"
    NULL = "null literal"
    STRING = "string literal"
    NUMBER = "number literal"
    BEGIN_ARRAY = "'['"
    BEGIN_OBJECT = "'{'"
    END_ARRAY = "']'"
    END_OBJECT = "'}'"
    NAME_SEPARATOR = "':'"
    VALUE_SEPARATOR = "','"
    END_OF_INPUT = "end of input"
    VALUE = "'[', '{', or a literal"
    ERROR = "<parse error>"


STRUCTURE = {
    ord("["): Token.BEGIN_ARRAY,
    ord("{"): Token.BEGIN_OBJECT,
    ord("]"): Token.END_ARRAY,
    ord("}"): Token.END_OBJECT,
    ord(":"): Token.NAME_SEPARATOR,
    ord(","): Token.VALUE_SEPARATOR,
    0: Token.END_OF_INPUT,
    END: Token.END_OF_INPUT,
}
LITERALS = {
    ord("t"): (b"true", Token.TRUE),
    ord("f"): (b"false", Token.FALSE),
    ord("n"): (b"null", Token.NULL),
}
SIMPLE = (Token.TRUE, Token.FALSE, Token.NULL, Token.STRING, Token.NUMBER)


class _Stop(Exception):
    """The scanner cannot go on; its text is the reason."""


class _Scanner:
    """Cuts a text into tokens and remembers what the sentences need."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._next = 0
        self._began = 0
        self._line = 1
        self._column = 0
        self._column_before = 0
        self.token = Token.ERROR
        self.error = ""

    def scan(self) -> Token:
        """Read the next token."""
        try:
            self.token = self._scan()
        except _Stop as exc:
            self.token, self.error = Token.ERROR, str(exc)
        return self.token

    def complaint(self, context: str, expected: Token | None) -> str:
        """The sentence about the token that was read last."""
        found = f"unexpected {self.token}"
        if self.token is Token.ERROR:
            found = f"{self.error}; last read: '{self._last_read()}'"
        wish = f"; expected {expected}" if expected is not None else ""
        return (
            f"[json.exception.parse_error.101] parse error at line {self._line}, column "
            f"{self._column}: syntax error while parsing {context} - {found}{wish}"
        )

    def _last_read(self) -> str:
        read = self._text[self._began : min(self._next, len(self._text))]
        shown = "".join(f"<U+{byte:04X}>" if byte < 0x20 else chr(byte) for byte in read)
        return shown.encode("latin-1").decode("utf-8", "replace")

    def _get(self) -> int:
        byte = self._text[self._next] if self._next < len(self._text) else END
        self._next += 1
        self._column_before = self._column
        self._column += 1
        if byte == ord("\n"):
            self._line, self._column = self._line + 1, 0
        return byte

    def _unget(self, byte: int) -> None:
        self._next -= 1
        self._column = self._column_before
        if byte == ord("\n"):
            self._line -= 1

    def _scan(self) -> Token:
        byte = self._get()
        while byte in WHITESPACE:
            byte = self._get()
        if byte in STRUCTURE:
            return STRUCTURE[byte]
        if byte in LITERALS:
            return self._literal(*LITERALS[byte])
        if byte == ord('"'):
            self._began = self._next - 1
            return self._string()
        if byte == ord("-") or byte in DIGITS:
            self._began = self._next - 1
            return self._number(byte)
        raise _Stop("invalid literal")

    def _literal(self, text: bytes, token: Token) -> Token:
        for wanted in text[1:]:
            if self._get() != wanted:
                raise _Stop("invalid literal")
        return token

    def _string(self) -> Token:
        while (byte := self._get()) != ord('"'):
            if byte == END:
                raise _Stop("invalid string: missing closing quote")
            if byte < 0x20:
                code = f"U+{byte:04X} ({CONTROL_NAMES[byte]})"
                forms = f"\\u{byte:04X}"
                forms += f" or {ESCAPES[byte]}" if byte in ESCAPES else ""
                raise _Stop(f"invalid string: control character {code} must be escaped to {forms}")
            if byte == ord("\\"):
                self._escape()
            elif byte >= 0x80:
                self._continue_utf8(byte)
        return Token.STRING

    def _escape(self) -> None:
        byte = self._get()
        if byte == ord("u"):
            self._unicode()
        elif byte not in SIMPLE_ESCAPES:
            raise _Stop("invalid string: forbidden character after backslash")

    def _unicode(self) -> None:
        code = self._code_point()
        if 0xD800 <= code <= 0xDBFF:
            lost = "invalid string: surrogate U+D800..U+DBFF must be followed by U+DC00..U+DFFF"
            if self._get() != ord("\\") or self._get() != ord("u"):
                raise _Stop(lost)
            if not 0xDC00 <= self._code_point() <= 0xDFFF:
                raise _Stop(lost)
        elif 0xDC00 <= code <= 0xDFFF:
            raise _Stop("invalid string: surrogate U+DC00..U+DFFF must follow U+D800..U+DBFF")

    def _code_point(self) -> int:
        code = 0
        for _ in range(4):
            byte = self._get()
            if byte not in HEX_DIGITS:
                raise _Stop("invalid string: '\\u' must be followed by 4 hex digits")
            code = 16 * code + int(chr(byte), 16)
        return code

    def _continue_utf8(self, first: int) -> None:
        for low, high in _continuations(first):
            if not low <= self._get() <= high:
                raise _Stop("invalid string: ill-formed UTF-8 byte")

    def _number(self, byte: int) -> Token:
        if byte == ord("-"):
            byte = self._digit("expected digit after '-'")
        byte = self._get() if byte == ord("0") else self._digits()
        if byte == ord("."):
            self._digit("expected digit after '.'")
            byte = self._digits()
        if byte in (ord("e"), ord("E")):
            byte = self._get()
            if byte in (ord("+"), ord("-")):
                self._digit("expected digit after exponent sign")
            elif byte not in DIGITS:
                raise _Stop("invalid number; expected '+', '-', or digit after exponent")
            byte = self._digits()
        self._unget(byte)
        return Token.NUMBER

    def _digit(self, complaint: str) -> int:
        byte = self._get()
        if byte not in DIGITS:
            raise _Stop(f"invalid number; {complaint}")
        return byte

    def _digits(self) -> int:
        """Pass over digits; the byte behind them."""
        byte = self._get()
        while byte in DIGITS:
            byte = self._get()
        return byte


def _continuations(first: int) -> list[tuple[int, int]]:
    """The ranges of the bytes that have to follow the first byte of a character in UTF-8."""
    tail = (0x80, 0xBF)
    if 0xC2 <= first <= 0xDF:
        return [tail]
    if 0xE0 <= first <= 0xEF:
        return [{0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F)}.get(first, tail), tail]
    if 0xF0 <= first <= 0xF4:
        return [{0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}.get(first, tail), tail, tail]
    raise _Stop("invalid string: ill-formed UTF-8 byte")


def complain(text: bytes) -> str | None:
    """The original's sentence about a text that is not JSON; None when it would take it."""
    scanner = _Scanner(text.removeprefix(b"\xef\xbb\xbf"))
    open_arrays: list[bool] = []
    scanner.scan()
    while True:
        if scanner.token in (Token.BEGIN_OBJECT, Token.BEGIN_ARRAY):
            is_array = scanner.token is Token.BEGIN_ARRAY
            if scanner.scan() is not (Token.END_ARRAY if is_array else Token.END_OBJECT):
                open_arrays.append(is_array)
                wrong = None if is_array else _read_key(scanner)
                if wrong is not None:
                    return wrong
                continue
        elif scanner.token is Token.ERROR:
            return scanner.complaint("value", None)
        elif scanner.token not in SIMPLE:
            return scanner.complaint("value", Token.VALUE)
        wrong, is_over = _go_on(scanner, open_arrays)
        if is_over or wrong is not None:
            return wrong


def _read_key(scanner: _Scanner) -> str | None:
    """Read `"key":` and the first token behind it; the scanner is at the key's token."""
    if scanner.token is not Token.STRING:
        return scanner.complaint("object key", Token.STRING)
    if scanner.scan() is not Token.NAME_SEPARATOR:
        return scanner.complaint("object separator", Token.NAME_SEPARATOR)
    scanner.scan()
    return None


def _go_on(scanner: _Scanner, open_arrays: list[bool]) -> tuple[str | None, bool]:
    """Close what ends after a value, up to the next one; a complaint, and whether all is read."""
    while open_arrays:
        is_array = open_arrays[-1]
        closing = Token.END_ARRAY if is_array else Token.END_OBJECT
        if scanner.scan() is Token.VALUE_SEPARATOR:
            scanner.scan()
            return (None if is_array else _read_key(scanner)), False
        if scanner.token is not closing:
            return scanner.complaint("array" if is_array else "object", closing), False
        open_arrays.pop()
    if scanner.scan() is not Token.END_OF_INPUT:
        return scanner.complaint("value", Token.END_OF_INPUT), True
    return None, True
