"""Videos in many containers and codecs, and what becomes of them when bytes are changed."""
