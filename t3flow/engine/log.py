"""The log of the program: loguru's, imported with the first line that is logged. Importing it takes longer than all else that `status` needs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loguru import logger as logger
else:

    class _Logger:
        """Stands in for loguru's logger, method by method."""

        def __getattr__(self, name: str) -> Any:
            from loguru import logger

            return getattr(logger, name)

    logger = _Logger()
