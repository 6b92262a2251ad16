"""The book's colours."""

#: Okabe & Ito's palette (2008), told apart by people with any of the common colour-vision deficiencies.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")

#: For the red, green and blue channel: members of the same palette, each paired with its own line style.
RGB = ("#D55E00", "#009E73", "#0072B2")

#: One norm has one colour in all figures: the place in `COLORS`, by a word of a curve's label.
NORM_COLORS = {
    "plain": 6,
    "no norm": 6,
    "batch": 0,
    "layer": 1,
    "one group": 1,
    "group": 2,
    "instance": 3,
    "RMS": 5,
}
