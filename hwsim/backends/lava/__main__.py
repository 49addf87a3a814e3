"""``python -m hwsim.backends.lava``: chip segments of a saved mapping in Lava, without torch."""

import sys

from hwsim.backends.lava.standalone import main

sys.exit(main(sys.argv[1:]))
