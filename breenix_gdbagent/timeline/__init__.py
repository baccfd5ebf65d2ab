"""Questions to a recording, answered by standing at many moments of it."""
