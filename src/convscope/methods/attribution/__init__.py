"""Attribution: what in this image drove a unit, a class score or a loss."""
