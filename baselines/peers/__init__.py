"""What a user would have written or called instead. Import-guarded."""


class LackingError(Exception):
    """A library has not what is asked of it as a peer: no fault, and shown as missing."""
