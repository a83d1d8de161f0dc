"""Speed: counts of compiled steps that must not grow, and times beside those of other programs."""
