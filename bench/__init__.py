"""Speed, as ratios within one run; see README.md."""

import minirec  # noqa: F401  before torch, whose waiting threads then do not spin
