"""From a path, a URL or bytes to frames and pictures, within limits."""
