"""Checks a dashboard against Grafana's schema, as Grafana publishes it for Python: grafana-foundation-sdk.

In: the dashboard's file. Out: a line for each value that the schema has no place for, or another type, and 1 if there is any.
The SDK's own reading drops keys that it doesn't know and takes values of any type; so what it has read is written again
and compared, and each value is held against the type that is declared for it.
"""

import enum
import json
import sys
import types
import typing

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.models import dashboard

# What the schema leaves out and Grafana itself writes: a variable's query as its editor shows it.
ALSO_WRITTEN = {"definition"}


def lost(read, written, place=""):
    """What of `read` isn't in `written`."""
    if isinstance(read, dict) and isinstance(written, dict):
        for key, value in read.items():
            if key in written:
                yield from lost(value, written[key], f"{place}.{key}")
            elif value is not None and key not in ALSO_WRITTEN:
                yield f"{place}.{key}: the schema has no such key"
    elif isinstance(read, list) and isinstance(written, list) and len(read) == len(written):
        for number, values in enumerate(zip(read, written)):
            yield from lost(*values, f"{place}[{number}]")
    elif read != written:
        yield f"{place}: {read!r} becomes {written!r}"


def is_model(value):
    """Whether the schema declares its parts."""
    return hasattr(value, "to_json")


def fits(value, wanted):
    """Whether a value is of a declared type; of lists and dictionaries, all that is in them."""
    arguments = typing.get_args(wanted)
    origin = typing.get_origin(wanted)
    if wanted in (object, typing.Any):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(fits(one, arguments[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, arguments[1]) for one in value.values())
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return value in [one.value for one in wanted]
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)


def unfit(value, place=""):
    """What in a model isn't of its declared type."""
    if isinstance(value, UnknownDataquery):
        yield f"{place}: a query of a kind that the schema doesn't know"
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from unfit(one, f"{place}[{number}]")
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from unfit(one, f"{place}.{key}")
    elif is_model(value):
        for name, wanted in typing.get_type_hints(type(value)).items():
            one = getattr(value, name)
            if not fits(one, wanted):
                yield f"{place}.{name}: {one!r} is no {wanted}"
            yield from unfit(one, f"{place}.{name}")


def main():
    """Reads the command line."""
    register_default_plugins()
    with open(sys.argv[1], encoding="utf-8") as file:
        read = json.load(file)
    model = dashboard.Dashboard.from_json(read)
    written = json.loads(json.dumps(model, cls=JSONEncoder))
    found = [*lost(read, written), *unfit(model)]
    # A panel of a kind that the SDK doesn't know has options that it passes on unread.
    for panel in model.panels or []:
        if not (isinstance(panel, dashboard.RowPanel) or is_model(panel.options)):
            found.append(f"{panel.title}: a panel of a kind that the schema doesn't know")
    print("\n".join(found))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
