"""Generated scenes: layers of procedural textures and shapes that move, as a camera sees them. NumPy and OpenCV."""
