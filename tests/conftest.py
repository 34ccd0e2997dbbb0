"""What holds for all tests."""

from __future__ import annotations

import os

# Nothing is left in, or read from, the folder of caches of whoever runs them.
os.environ["EQUIPOISE_CACHE"] = "off"
