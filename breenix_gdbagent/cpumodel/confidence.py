"""How sure an explanation is."""

from typing import Literal

Confidence = Literal["proved", "likely", "possible"]
"""``proved``: predicted and observed agree, and nothing else ends so; ``likely``: something that
would tell for certain is not known; ``possible``: no prediction ends as was observed."""
