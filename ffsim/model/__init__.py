"""The NumPy reference: numbers on arrays, costs on shapes, from one piece of code."""
