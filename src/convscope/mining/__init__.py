"""Mining: what every unit responds to most, least and usually, over any number of images, in one pass."""
