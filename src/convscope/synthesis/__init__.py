"""Synthesis: images made to please a unit, or to reproduce a code, and the natural ones beside them."""
