"""The full screen of `watch`: a pure model of what is shown, and Textual to show it. Loaded by that command alone."""
