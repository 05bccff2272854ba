"""What NeMo's proxy looks at of torch. It never computes with it, and the real one is 200 MB."""

__version__ = "2.13.0"


class Tensor:
    """No value is one."""


class distributed:  # noqa: N801 - torch's own spelling
    """One process."""

    @staticmethod
    def is_initialized() -> bool:
        return False
