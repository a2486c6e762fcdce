"""Property tests draw at random for people, and the same examples every time in CI."""

import os

from hypothesis import settings

settings.register_profile("people", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "people")
