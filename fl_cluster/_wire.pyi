from typing import TypeVar, final

from fl_cluster.wire.schema import AnyMessage, Buffer, Field

_Message = TypeVar("_Message", bound=AnyMessage)

@final
class Decoder:
    def __new__(
        cls,
        schema: tuple[tuple[type[AnyMessage], tuple[Field, ...]], ...],
        least_bytes: int,
        most_bytes: int,
        most_depth: int,
        most_tables: int,
    ) -> Decoder: ...
    def decode(self, cls: type[_Message], body: Buffer, /) -> _Message: ...
