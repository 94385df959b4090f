"""Plain data as JSON and back: how values leave and enter a sandbox. No pickle, no object with behaviour of its own.

Whatever is not exactly of one of the types below (a subclass with another ``==``, say) is refused. The source of this
module also runs inside both sandboxes, so it imports nothing and stays within the subset that monty understands.
"""


def pack_plain(value):
    """``value`` as what ``json.dumps`` writes: scalars as they are, the rest as ``[tag, ...]``. Else ``TypeError``."""
    kind = type(value)
    if value is None or kind is bool or kind is int or kind is float or kind is str:
        return value
    if kind is list:
        return ["list", *[pack_plain(one) for one in value]]
    if kind is tuple:
        return ["tuple", *[pack_plain(one) for one in value]]
    if kind is set:
        return ["set", *[pack_plain(one) for one in value]]
    if kind is dict:
        return ["dict", *[[pack_plain(key), pack_plain(one)] for key, one in value.items()]]
    raise TypeError(f"a value is no plain data but of type {kind.__name__}")


def unpack_plain(packed, depth=100):
    """The inverse. Raises ``ValueError`` or ``TypeError`` for what :func:`pack_plain` does not write, and for values
    nested more deeply than ``depth``, which would exhaust the stack of whoever looks at them."""
    if depth == 0:
        raise ValueError("nested too deeply")
    if packed is None or isinstance(packed, (bool, int, float, str)):
        return packed
    if isinstance(packed, list) and packed:
        tag = packed[0]
        if tag == "dict":
            return {unpack_plain(key, depth - 1): unpack_plain(one, depth - 1) for key, one in packed[1:]}
        values = [unpack_plain(one, depth - 1) for one in packed[1:]]
        if tag == "list":
            return values
        if tag == "tuple":
            return tuple(values)
        if tag == "set":
            return set(values)
    raise ValueError("no packed value")
